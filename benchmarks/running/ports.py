"""Ports for servers that are started here."""

from __future__ import annotations

import secrets
import socket

FROM, COUNT = 30_500, 2_000
"""Below those that the system gives to whoever connects, which may be taken between here and the
moment, a minute later, when a server binds them; and above those that Ringfence and Ray take."""


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    while True:
        port = FROM + secrets.randbelow(COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
