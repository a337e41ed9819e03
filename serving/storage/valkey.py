"""Valkey, or Redis: scripts and commands over one client, with a deadline on every wait.

Knows nothing of what is kept there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from valkey.asyncio import Valkey as Client
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff
from valkey.exceptions import ValkeyError

from serving.storage.errors import ValkeyNotAsked, ValkeyUnavailable, ValkeyUrlInvalid

PREFIX = "{ringfence}:"
"""Prefix of every key in Valkey."""

TIMEOUT_S = 0.5
"""Deadline of one call. A gateway waits no longer for what Valkey knows."""

PAUSE_S = 0.25
"""How long a server that failed is left alone: callers fail at once then, not each in turn."""

_SCHEMES = {"redis": "valkey", "rediss": "valkeys", "valkey": "valkey", "valkeys": "valkeys"}


_CLOCK = (Path(__file__).parent / "clock.lua").read_text("utf-8")


def script(path: Path) -> str:
    """The script of a file, after what all of ours begin with (`clock.lua`).

    Its first argument is the prefix of its keys.
    """
    return _CLOCK + path.read_text("utf-8")


class Valkey:
    """A Valkey or Redis server (7.0 or newer), reached by URL.

    Every method raises `ValkeyUnavailable` when it does not answer in time or refuses.
    """

    def __init__(
        self, client: Client, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock
        self._retry_at = float("-inf")
        self._scripts: dict[str, Any] = {}

    @classmethod
    def open(cls, url: str, *, timeout_s: float = TIMEOUT_S) -> Self:
        """A client of `valkey://`, `redis://` or `unix:///path`; connects on first use.

        Raises:
            ValkeyUrlInvalid: no such URL.
        """
        scheme, found, rest = url.partition("://")
        if not found or (scheme != "unix" and scheme not in _SCHEMES):
            raise ValkeyUrlInvalid(
                "a Valkey URL begins with valkey://, valkeys://, redis://, rediss:// or unix://"
            )
        try:
            client = Client.from_url(
                f"{_SCHEMES.get(scheme, scheme)}://{rest}",
                socket_connect_timeout=timeout_s,  # Calls have their deadline here, in `_bounded`.
                # With one of its own it sends in `asyncio.wait_for`, which loses cancellations.
                socket_timeout=None,
                retry=Retry(NoBackoff(), 0),  # Whether to try again is for the caller to know.
            )
            client.connection_pool.make_connection()  # Connects to nothing; options are looked at.
        except (ValueError, TypeError):  # Their text may hold the password.
            raise ValkeyUrlInvalid(
                "not a Valkey URL; a password has to be quoted, and options are those of valkey-py"
            ) from None
        return cls(client, timeout_s=timeout_s)

    async def run(self, script: str, *args: bytes | str | int) -> Any:
        """Run a Lua script, which Valkey does in one piece; its reply as valkey-py parses it."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._client.register_script(script)
        return await self._bounded(lambda: known(keys=[], args=args))

    async def command(self, *words: bytes | str | float) -> Any:
        """Run one command."""
        return await self._bounded(lambda: self._client.execute_command(*words))  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _bounded(self, call: Callable[[], Any]) -> Any:
        if self._clock() < self._retry_at:
            raise ValkeyNotAsked("Valkey failed a moment ago")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call()
        except (ValkeyError, OSError, TimeoutError) as error:
            self._retry_at = self._clock() + PAUSE_S
            raise ValkeyUnavailable(f"Valkey is unavailable: {type(error).__name__}") from error
