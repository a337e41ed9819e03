"""The requests of a gateway that are not answered to their end: counted, waited for, and ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from serving.domain.errors import ServerStopping


class OpenRequests:
    """The open requests of one gateway."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._works: set[asyncio.Timeout] = set()
        self.none_open = asyncio.Event()
        """Set while no request is open."""
        self.none_open.set()
        self.refusing = False
        """Whether new requests are refused."""

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def counted(self, request_id: str) -> Iterator[None]:
        """Count one request, from its headers to the last byte of its answer.

        Work under an idempotency key counts as one with the client that waits for it.
        """
        self._open[request_id] += 1
        self.none_open.clear()
        try:
            yield
        finally:
            self._open[request_id] -= 1
            if not self._open[request_id]:
                del self._open[request_id]
            if not self._open:
                self.none_open.set()

    @asynccontextmanager
    async def work(self, *, refusable: bool) -> AsyncIterator[None]:
        """The scope of one request's work.

        Raises:
            ServerStopping: it is refused, or `end` has ended it.
        """
        if self.refusing and refusable:
            raise ServerStopping
        try:
            async with asyncio.timeout(None) as work:
                self._works.add(work)
                try:
                    yield
                finally:
                    self._works.discard(work)
        except TimeoutError:
            if not work.expired():
                raise
            raise ServerStopping from None

    def end(self) -> None:
        """End the work of every open request as soon as the loop can."""
        now = asyncio.get_running_loop().time()
        for work in self._works:
            if not work.expired():
                work.reschedule(now)

    async def none_within(self, seconds: float) -> bool:
        """Whether no request is open any more, as soon as that is so or at the end of the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.none_open.wait()
        return not self._open
