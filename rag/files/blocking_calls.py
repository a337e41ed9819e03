"""Blocking calls of a store, in threads of its own and each with a deadline.

A thread cannot be cancelled. A call that outlasts its deadline is left behind: its caller gets an
error, and what has to be cleaned up is done when the call ends after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 8
DEADLINE_S = 60.0


class StoreTimeout(TimeoutError):
    """The store did not answer in time."""


class StoreThreads:
    """The threads of one store.

    Args:
        purpose: names the threads.
        threads: the most calls at a time.
        deadline_s: the most that a call may take, waiting for a thread included.
    """

    def __init__(
        self, purpose: str, *, threads: int = THREADS, deadline_s: float = DEADLINE_S
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"ringfence-{purpose}")
        self._threads = threads
        self._left: set[Future[Any]] = set()
        self.deadline_s = deadline_s

    def submit(self, call: Callable[..., T], *args: object) -> Future[T]:
        """Begin a call.

        Raises:
            StoreTimeout: every thread is in a call that was left behind.
        """
        if len(self._left) >= self._threads:
            raise StoreTimeout("The store does not answer.")
        return self._pool.submit(call, *args)

    def leave(self, job: Future[Any]) -> None:
        """Give a call up; one that has not begun never does."""
        if not job.cancel():
            self._left.add(job)
            job.add_done_callback(self._left.discard)


class CallSequence:
    """Calls that belong together, such as those of one reader. Each waits for the one before it."""

    def __init__(self, threads: StoreThreads) -> None:
        self._threads = threads
        self._job: Future[Any] | None = None

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Return what a call returns. A caller that is cancelled waits for its end, too.

        Raises:
            StoreTimeout: it did not end within its deadline.
        """
        self._job = job = self._threads.submit(call, *args)
        ended = asyncio.wrap_future(job)
        if await _waited(ended, self._threads.deadline_s):
            return ended.result()
        self._threads.leave(job)
        raise StoreTimeout("The store did not answer in time.")

    async def close(self, clean_up: Callable[[], object]) -> None:
        """Run a last call, after one that was left behind only when that ends."""
        job = self._job
        if job is None or job.done():
            with suppress(StoreTimeout):  # It is left behind, as any call.
                await self.run(clean_up)
        else:
            job.add_done_callback(lambda _: _quietly(clean_up))


async def _waited(ended: asyncio.Future[Any], seconds: float) -> bool:
    """Whether it ended in time. Raises CancelledError of the caller when it has, or could have."""
    loop = asyncio.get_running_loop()
    until, cancelled = loop.time() + seconds, None
    while not ended.done() and (left_s := until - loop.time()) > 0:
        try:
            await asyncio.wait({ended}, timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if ended.done():
            ended.exception()  # Retrieved, so that asyncio does not log it as unhandled.
        raise cancelled
    return ended.done()


def _quietly(clean_up: Callable[[], object]) -> None:
    with suppress(Exception):  # Nobody waits for it any more, and a sweep follows.
        clean_up()
