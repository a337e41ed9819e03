"""Free ports for servers that a benchmark starts."""

from __future__ import annotations

import secrets
import socket

FROM, COUNT = 30_500, 2_000
"""The range is below the system's ephemeral ports, which could be taken before the server binds
the port, and above the ports of Ringfence and Ray."""


def free_port() -> int:
    """Return a port of this machine on which nothing listens now."""
    while True:
        port = FROM + secrets.randbelow(COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
