"""Large bodies: how many bytes of them there may be at once, and the threads that parse them.

Of one gateway. A key has a part of the bytes, and one body parsed at a time, so that no key keeps
others from having theirs parsed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from models.threads import Threads
from serving.domain.errors import Overloaded, RateLimited

T = TypeVar("T")

LARGE_BYTES = 16 * 1024
"""A body above this is parsed in a thread. Below, a thread takes longer than the parsing."""

BODIES_OF_A_KEY = 8
BODIES_OF_ALL = 32
"""Bytes that are received and not yet parsed, as a multiple of the longest body."""

THREADS = 2
PARSE_TIMEOUT_S = 15.0
"""For a body to be parsed, with the wait for a thread. The longest one takes a second."""

Hold = Callable[[int], None]
"""Counts so many more bytes of a body. Raises `RateLimited` and `Overloaded`."""


class LargeBodies:
    """Counts bytes of bodies, and parses large ones.

    Args:
        max_body_bytes: the longest body.
        timeout_s: see `PARSE_TIMEOUT_S`.
    """

    def __init__(self, max_body_bytes: int, *, timeout_s: float = PARSE_TIMEOUT_S) -> None:
        self._max_of_key = BODIES_OF_A_KEY * max_body_bytes
        self._max_of_all = BODIES_OF_ALL * max_body_bytes
        self._timeout_s = timeout_s
        self._of_key: Counter[str] = Counter()
        self._of_all = 0
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._threads = Threads("bodies", THREADS)

    @contextmanager
    def held(self, key_id: str) -> Iterator[Hold]:
        """The scope of one body. Its bytes are free again at the end."""
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            if self._of_key[key_id] + count > self._max_of_key:
                raise RateLimited(
                    f"Requests of this key that are being read have {self._max_of_key} bytes. "
                    "Try again in 1 s."
                )
            if self._of_all + count > self._max_of_all:
                raise Overloaded("Too many large requests are being read; try again later.")
            mine += count
            self._of_key[key_id] += count
            self._of_all += count

        try:
            yield hold
        finally:
            self._of_all -= mine
            self._of_key[key_id] -= mine
            if not self._of_key[key_id]:
                del self._of_key[key_id]

    async def parsed(self, key_id: str, parse: Callable[[], T]) -> T:
        """What `parse` returns, from a thread; one at a time for a key. What it raises is raised.

        Raises:
            Overloaded: it took too long. The thread goes on, and the key has no other meanwhile.
        """
        turn = self._turns.get(key_id)
        if turn is None:
            turn = self._turns[key_id] = asyncio.Lock()
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn.acquire()
                parsing = self._threads.submit(parse)
                parsing.add_done_callback(lambda done: _end(turn, done))
                return await asyncio.shield(parsing)
        except TimeoutError:
            raise Overloaded("The request could not be read in time; try again later.") from None


def _end(turn: asyncio.Lock, done: asyncio.Future[T]) -> None:
    """Let the next one have its turn. An error that nobody waits for any more is not news."""
    turn.release()
    if not done.cancelled():
        done.exception()
