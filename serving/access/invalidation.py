"""Cache invalidation between gateways: a change that returns holds on every gateway from then on.

A gateway keeps keys and limits for a moment. Whoever changes one announces its subject in Valkey
and waits until every gateway has forgotten what it kept of that and has said so, or until nothing
that was kept can serve any more (`MAX_AGE_S`). So the promise does not depend on Valkey, only how
long it takes: milliseconds with it, five seconds without.

A gateway that Valkey has not heard of for `TRUST_S` may miss an announcement, and is not waited
for: it asks the database about each request. Knows nothing of what is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self
from uuid import uuid4

import orjson

from models.background import BackgroundLoop
from serving.access.fresh_cache import MAX_AGE_S, Forget
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import PREFIX, Valkey, script

TRUST_S = 4.0
"""How long a gateway may serve its cache after it was last heard of."""

LEASE_S = 5.0
"""How long a change waits for a silent gateway: longer than `TRUST_S`, as clocks differ."""

LISTEN_S = 1.0
"""How long one call waits for an announcement."""

TIMEOUT_S = 3.0
"""The deadline of a call: longer than `LISTEN_S`."""

RETRY_S = 0.1
POLL_S = 0.005
LONGEST_POLL_S = 0.1
LEAVE_WAIT_S = 0.5

_SCRIPT = script(Path(__file__).parent / "invalidation.lua")


class Announce(Protocol):
    """Announces the subjects of a committed change, and returns when the change holds."""

    async def __call__(self, *subjects: str) -> None:
        """Subjects are `key:<id>`, `tenant:<name>` and `model:<id>`."""
        ...


async def to_nobody(*subjects: str) -> None:
    """Announce nothing: no gateway may have kept anything of these subjects."""


class Announcer:
    """Announces changes to gateways, and waits until they hold.

    Args:
        valkey: shared by all gateways.
        prefix: of every key; tests take their own.
    """

    def __init__(self, valkey: Valkey, *, prefix: str = PREFIX) -> None:
        self._valkey = valkey
        self._prefix = prefix

    async def announce(self, *subjects: str) -> None:
        """Return when no gateway serves what it kept of these subjects, within `MAX_AGE_S`.

        To be called when the change is committed. It does not fail: while Valkey is away, what
        was kept has become too old to serve when this returns.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_AGE_S):
                while True:
                    with suppress(ValkeyUnavailable):
                        await self.wait_for(await self.send(*subjects))
                        return
                    await asyncio.sleep(RETRY_S)

    async def send(self, *subjects: str) -> int:
        """Announce a change; its number.

        Raises:
            ValkeyUnavailable: it may or may not have been announced.
        """
        return int(await self._run("announce", orjson.dumps(subjects)))

    async def wait_for(self, number: int) -> None:
        """Return when every gateway has acted on an announcement, or trusts no cache.

        The caller bounds the wait. Raises `ValkeyUnavailable` as `send` does.
        """
        pause_s = POLL_S
        while await self._run("waiting", number) > 0:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_POLL_S)

    async def _run(self, *words: bytes | str | int) -> Any:
        return await self._valkey.run(_SCRIPT, self._prefix, *words)


class Invalidations(Announcer):
    """Receives the announcements for one gateway, over a separate connection.

    Args:
        valkey: shared by all gateways; closed by `close`.
        prefix: of every key; tests take their own.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        valkey: Valkey,
        *,
        prefix: str = PREFIX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(valkey, prefix=prefix)
        self._clock = clock
        self._gateway = uuid4().hex
        self._heard = 0
        self._trusted_until = float("-inf")
        self._subscribers: list[Forget] = []
        self.loop = BackgroundLoop(
            "invalidation", self._listen, every_s=0.0, at_once=True, longest_s=RETRY_S
        )

    @classmethod
    def open(cls, url: str, *, prefix: str = PREFIX) -> Self:
        """Over a client of its own, since a question for announcements keeps a connection busy.

        Raises:
            ValkeyUrlInvalid: no such URL.
        """
        return cls(Valkey.open(url, timeout_s=TIMEOUT_S), prefix=prefix)

    def subscribe(self, forget: Forget) -> None:
        """Have `forget` called with every change that is announced."""
        self._subscribers.append(forget)

    def is_current(self) -> bool:
        """Whether every change waits for this gateway; see `TRUST_S`."""
        return self._clock() < self._trusted_until

    def start(self) -> None:
        """Begin to listen. Without it `is_current` is never true."""
        self.loop.start()

    async def close(self) -> None:
        """Stop. Changes no longer wait for this gateway."""
        self._trusted_until = float("-inf")
        await self.loop.close()
        with suppress(ValkeyUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_WAIT_S):
                await self._run("leave", self._gateway)
        await self._valkey.close()

    async def _listen(self) -> None:
        await self._renew()
        await self._hear()

    async def _renew(self) -> None:
        """Say what was heard, and be trusted for a while."""
        sent_at = self._clock()
        known, number = await self._say_heard()
        if not known or number < self._heard:  # Nobody waited for us, or Valkey lost its data.
            self._tell(None)
            self._heard = number
            await self._say_heard()
        self._trusted_until = sent_at + TRUST_S

    async def _say_heard(self) -> tuple[bool, int]:
        """Whether we were waited for until now, and the number of the last announcement."""
        lease_ms = round(LEASE_S * 1000)
        known, number = await self._run("listen", self._gateway, self._heard, lease_ms)
        return bool(known), number

    async def _hear(self) -> None:
        """Wait for announcements for a while, and act on them."""
        streams = await self._valkey.command(
            *("XREAD", "BLOCK", round(LISTEN_S * 1000)),
            *("STREAMS", f"{self._prefix}invalidations", f"{self._heard}-0"),
        )
        entries = [
            (int(number.split(b"-")[0]), orjson.loads(fields[b"subjects"]))
            for _, found in streams or ()
            for number, fields in found
        ]
        if not entries:
            return
        missed = entries[0][0] != self._heard + 1
        self._tell(None if missed else _all(subjects for _, subjects in entries))
        self._heard = entries[-1][0]

    def _tell(self, subjects: frozenset[str] | None) -> None:
        for forget in self._subscribers:
            forget(subjects)


def _all(announced: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset(subject for subjects in announced for subject in subjects)
