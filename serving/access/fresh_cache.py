"""Keeps what the database said for a moment, so that it is not asked for every request.

A change there is seen within `MAX_AGE_S`, whatever fails. Knows nothing of what it keeps.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.access.errors import StoreUnavailable
from serving.storage.errors import DatabaseUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TTL_S = 2.0
"""Age from which the database is asked again, while the answer still serves."""

MAX_AGE_S = 5.0
"""Age up to which an answer serves, even while the database is silent: bounds a revocation."""

LOOKUP_TIMEOUT_S = 2.0
RETRY_WAIT_S = 0.25
"""How long a database that failed is left alone."""

MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Cached(Generic[V]):
    """An answer; `read_at` is when it was asked for."""

    value: V
    read_at: float


class FreshCache(Generic[K, V]):
    """Answers of one question, the least recently used dropped first.

    Args:
        ask: the question; it may raise `DatabaseUnavailable`.
        unavailable: what a caller is told while there is no answer.
        clock: seconds that never go back.
        max_entries: answers kept.
        lookup_timeout_s: for one answer.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V]],
        *,
        unavailable: str,
        clock: Callable[[], float],
        max_entries: int = MAX_ENTRIES,
        lookup_timeout_s: float = LOOKUP_TIMEOUT_S,
    ) -> None:
        self._ask = ask
        self._unavailable = unavailable
        self._clock = clock
        self._max_entries = max_entries
        self._lookup_timeout_s = lookup_timeout_s
        self._entries: OrderedDict[K, Cached[V]] = OrderedDict()
        self._lookups: dict[K, asyncio.Task[None]] = {}
        self._retry_at = float("-inf")

    def fresh(self, key: K) -> Cached[V] | None:
        """The answer about `key` if it is younger than `MAX_AGE_S`; past `TTL_S` it is asked anew.

        Nobody waits for that: a look-up goes through threads, which are slow under load.
        """
        entry = self._younger_than(MAX_AGE_S, key)
        if entry is not None and self._clock() - entry.read_at >= TTL_S and self._may_ask(key):
            self._task(key).add_done_callback(_look_at)
        return entry

    async def read(self, key: K) -> Cached[V]:
        """Ask the database, once for all who wait; the last answer will do if that fails.

        Raises:
            StoreUnavailable: no answer within the look-up's time, and none younger than
                `MAX_AGE_S` from before.
        """
        if self._may_ask(key):
            await self._lookup(key)
        entry = self._younger_than(MAX_AGE_S, key)
        if entry is None:
            raise StoreUnavailable(self._unavailable)
        return entry

    def _younger_than(self, age_s: float, key: K) -> Cached[V] | None:
        entry = self._entries.get(key)
        if entry is None or self._clock() - entry.read_at >= age_s:
            return None
        self._entries.move_to_end(key)
        return entry

    def _may_ask(self, key: K) -> bool:
        return key in self._lookups or self._clock() >= self._retry_at

    def _task(self, key: K) -> asyncio.Task[None]:
        """The look-up that runs, or a new one."""
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(self._look_up(key))
            task.add_done_callback(lambda _: self._lookups.pop(key))
        return task

    async def _lookup(self, key: K) -> None:
        task = self._task(key)
        # Unlike wait_for: one waiter that goes away leaves the lookup to the others, and the
        # deadline holds even while a cancelled query is being cleaned up.
        done, _ = await asyncio.wait({task}, timeout=self._lookup_timeout_s)
        if done:
            task.result()

    async def _look_up(self, key: K) -> None:
        asked_at = self._clock()  # Before the query: the answer may be as old as this.
        try:
            async with asyncio.timeout(self._lookup_timeout_s):
                value = await self._ask(key)
        except (DatabaseUnavailable, TimeoutError):
            self._retry_at = self._clock() + RETRY_WAIT_S
            return
        self._entries[key] = Cached(value, asked_at)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)


def _look_at(lookup: asyncio.Task[None]) -> None:
    """A bug is told to whoever has to wait for the next look-up."""
    if not lookup.cancelled():
        lookup.exception()
