"""The end of one gateway: its requests first, then all that they leave to be written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from serving.admission.admission import Admission
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.storage.leftovers import Leftover

logger = logging.getLogger("ringfence.stopping")

END_WAIT_S = 3.0
"""How long requests that were ended may take to settle and to tell their clients."""

CLOSE_S = 30.0
"""The most that a stop takes after its time to drain."""


@dataclass(frozen=True, slots=True)
class WrittenLedgers:
    """The state of the ledgers after a stop.

    Attributes:
        left: what could not be written.
        signed: whether the head of the egress ledger is signed.
    """

    left: Sequence[Leftover]
    signed: bool


@dataclass(frozen=True, slots=True)
class StopReport:
    """The report of a gateway's stop. `ended` counts requests that outlasted the time to drain."""

    ended: int
    written: WrittenLedgers


class Stopping:
    """Stops one gateway, once.

    Args:
        requests: that are open.
        idempotency: work that may have no client.
        admission: knows what runs and what waits for its turn.
        close: closes everything else when no request needs it any more.
    """

    def __init__(
        self,
        requests: OpenRequests,
        *,
        idempotency: Idempotency,
        admission: Admission,
        close: Callable[[], Awaitable[WrittenLedgers]],
    ) -> None:
        self._requests = requests
        self._idempotency = idempotency
        self._admission = admission
        self._close = close
        self._drained = asyncio.Event()
        self._stopped: asyncio.Task[StopReport] | None = None

    async def stop(self, drain_s: float) -> StopReport:
        """Refuse new requests, let the open ones end within `drain_s`, and close.

        Called again it waits for the same stop, whose time to drain it may shorten.
        """
        return await asyncio.shield(self._begin(drain_s))

    def stop_later(self, seconds: float) -> None:
        """Stop after so long, unless it has stopped by then. Requests are let in meanwhile."""
        asyncio.get_running_loop().call_later(seconds, self._begin, 0.0)

    def _begin(self, drain_s: float) -> asyncio.Task[StopReport]:
        asyncio.get_running_loop().call_later(drain_s, self._drained.set)
        if self._stopped is None:
            self._requests.refusing = True
            self._stopped = asyncio.create_task(self._stop())
        return self._stopped

    async def _stop(self) -> StopReport:
        await self._drain()
        ended = len(self._requests)
        await self._end_requests()
        async with asyncio.timeout(CLOSE_S):
            written = await self._close()
        for left in written.left:
            logger.error("%s", left)
        if not written.signed:
            logger.error("the head of the egress ledger could not be signed")
        return StopReport(ended, written)

    async def _drain(self) -> None:
        """Wait until no request is open, or until the time to drain is over."""
        waiting = {
            asyncio.create_task(self._requests.none_open.wait()),
            asyncio.create_task(self._drained.wait()),
        }
        _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _end_requests(self) -> None:
        """End open requests: repeatable ones first, then attempts, then everything else."""
        await self._idempotency.close()
        self._admission.stop()
        if not await self._requests.none_within(END_WAIT_S):
            self._requests.end()
            await self._requests.none_within(END_WAIT_S)
