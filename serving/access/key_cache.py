"""Keeps what the store said about a key for a moment, so that it is not asked per request.

A change in the store is seen within `MAX_AGE_S`, whatever fails. Knows nothing of digests.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serving.access.errors import StoreUnavailable
from serving.access.keys import KeyStore
from serving.access.records import StoredKey
from serving.storage.errors import DatabaseUnavailable

TTL_S = 2.0
"""Age from which the store is asked again."""

MAX_AGE_S = 5.0
"""Age up to which an answer serves while the store is silent: the bound on a revocation."""

LOOKUP_TIMEOUT_S = 2.0
RETRY_WAIT_S = 0.25
"""How long a store that failed is left alone."""

MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class CachedKey:
    """The store's answer, None for an unknown id; `read_at` is when it was asked."""

    key: StoredKey | None
    read_at: float


class KeyCache:
    """Answers of one store, the least recently used dropped first."""

    def __init__(
        self,
        store: KeyStore,
        *,
        clock: Callable[[], float],
        max_entries: int = MAX_ENTRIES,
        lookup_timeout_s: float = LOOKUP_TIMEOUT_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_entries = max_entries
        self._lookup_timeout_s = lookup_timeout_s
        self._entries: OrderedDict[str, CachedKey] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._retry_at = float("-inf")

    def fresh(self, key_id: str) -> CachedKey | None:
        """The answer about `key_id` if it is younger than `TTL_S`."""
        return self._younger_than(TTL_S, key_id)

    async def read(self, key_id: str) -> CachedKey:
        """Ask the store, once for all who wait; the last answer will do if that fails.

        Raises:
            StoreUnavailable: no answer within the look-up's time, and none younger than
                `MAX_AGE_S` from before.
        """
        if key_id in self._lookups or self._clock() >= self._retry_at:
            await self._lookup(key_id)
        entry = self._younger_than(MAX_AGE_S, key_id)
        if entry is None:
            raise StoreUnavailable("API keys cannot be checked at the moment. Try again soon.")
        return entry

    def _younger_than(self, age_s: float, key_id: str) -> CachedKey | None:
        entry = self._entries.get(key_id)
        if entry is None or self._clock() - entry.read_at >= age_s:
            return None
        self._entries.move_to_end(key_id)
        return entry

    async def _lookup(self, key_id: str) -> None:
        task = self._lookups.get(key_id)
        if task is None:
            task = asyncio.create_task(self._ask_store(key_id))
            self._lookups[key_id] = task
            task.add_done_callback(lambda _: self._lookups.pop(key_id))
        # Unlike wait_for: one waiter that goes away leaves the lookup to the others, and the
        # deadline holds even while a cancelled query is being cleaned up.
        done, _ = await asyncio.wait({task}, timeout=self._lookup_timeout_s)
        if done:
            task.result()

    async def _ask_store(self, key_id: str) -> None:
        asked_at = self._clock()  # Before the query: the answer may be as old as this.
        try:
            async with asyncio.timeout(self._lookup_timeout_s):
                key = await self._store.find(key_id)
        except (DatabaseUnavailable, TimeoutError):
            self._retry_at = self._clock() + RETRY_WAIT_S
            return
        self._entries[key_id] = CachedKey(key, asked_at)
        self._entries.move_to_end(key_id)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
