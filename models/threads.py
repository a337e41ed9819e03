"""Threads for calls that block: a bounded pool for each purpose, so what hangs holds up no other.

The event loop's own pool is left to what Python itself puts there, the resolution of host names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The threads of one purpose. They start when they are needed.

    Args:
        purpose: names the threads, as a stack dump shows them.
        most: the most calls at a time; others wait for a thread.
    """

    def __init__(self, purpose: str, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=f"ringfence-{purpose}")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns. A caller that is cancelled leaves it running."""
        return await self.submit(call, *args, **kwargs)

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin a call. To be called in an event loop."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, partial(call, *args, **kwargs))
