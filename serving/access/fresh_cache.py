"""Keeps what the database said for a moment, so that it is not asked for every request.

A change that is announced is seen at once (see `invalidation`), any other within `MAX_AGE_S`,
whatever fails. Knows nothing of what it keeps.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from serving.domain.errors import StoreUnavailable
from serving.storage.errors import DatabaseUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TTL_S = 2.0
"""Age from which the database is asked again, while the old answer still serves."""

MAX_AGE_S = 5.0
"""Age up to which an answer serves, even while the database is silent.

It bounds a change that nobody announces, and how long an announcement waits for a silent gateway.
"""

LOOKUP_TIMEOUT_S = 2.0
RETRY_WAIT_S = 0.25
"""How long a database that failed is left alone."""

MAX_ENTRIES = 10_000


Forget = Callable[[frozenset[str] | None], None]
"""Drops the subjects that have changed (`key:<id>`, `tenant:<name>`, `model:<id>`), or everything
if it gets None."""


class Changes(Protocol):
    """Tells a cache what has changed."""

    def is_current(self) -> bool:
        """Whether this process has been told of every change that may hold by now."""
        ...

    def subscribe(self, forget: Forget) -> None:
        """Have `forget` called with every change."""
        ...


class Unannounced:
    """Stands in where no change is announced: only `MAX_AGE_S` bounds the age of answers."""

    def is_current(self) -> bool:
        """Nothing is waited for."""
        return True

    def subscribe(self, forget: Forget) -> None:
        """Does nothing, as no change is announced."""


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
        subjects: what an answer is about, as changes name it.
        changes: tells what to forget; while it is not current, no answer serves that was asked
            for before the question came.
        max_entries: answers kept.
        lookup_timeout_s: for one answer.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V]],
        *,
        unavailable: str,
        clock: Callable[[], float],
        subjects: Callable[[K, V], Collection[str]],
        changes: Changes,
        max_entries: int = MAX_ENTRIES,
        lookup_timeout_s: float = LOOKUP_TIMEOUT_S,
    ) -> None:
        self._ask = ask
        self._unavailable = unavailable
        self._clock = clock
        self._subjects = subjects
        self._changes = changes
        self._max_entries = max_entries
        self._lookup_timeout_s = lookup_timeout_s
        self._entries: OrderedDict[K, Cached[V]] = OrderedDict()
        self._lookups: dict[K, asyncio.Task[Cached[V] | None]] = {}
        self._retry_at = float("-inf")
        changes.subscribe(self._forget)

    def fresh(self, key: K) -> Cached[V] | None:
        """The answer about `key` if it is younger than `MAX_AGE_S`; past `TTL_S` it is asked anew.

        Nobody waits for that: a look-up goes through threads, which are slow under load.
        """
        if not self._changes.is_current():
            return None
        entry = self._younger_than(MAX_AGE_S, key)
        if entry is not None and self._clock() - entry.read_at >= TTL_S and self._may_ask(key):
            self._task(key)
        return entry

    async def read(self, key: K) -> Cached[V]:
        """Ask the database, once for all who wait; the last answer will do if that fails.

        Raises:
            StoreUnavailable: no answer within the look-up's time, and none younger than
                `MAX_AGE_S` from before that may serve.
        """
        oldest = -math.inf if self._changes.is_current() else self._clock()
        entry = await self._lookup(key)
        if entry is not None and entry.read_at < oldest:  # It was asked for before we came.
            entry = await self._lookup(key)
        if entry is None:
            entry = self._entries.get(key)
        if entry is None or entry.read_at < oldest or self._age_s(entry) >= MAX_AGE_S:
            raise StoreUnavailable(self._unavailable)
        return entry

    def _forget(self, changed: frozenset[str] | None) -> None:
        """Drop the answers about changed subjects. Look-ups that still run are not kept either."""
        self._lookups.clear()
        for key, entry in list(self._entries.items()):
            if changed is None or not changed.isdisjoint(self._subjects(key, entry.value)):
                del self._entries[key]

    def _younger_than(self, age_s: float, key: K) -> Cached[V] | None:
        entry = self._entries.get(key)
        if entry is None or self._age_s(entry) >= age_s:
            return None
        self._entries.move_to_end(key)
        return entry

    def _age_s(self, entry: Cached[V]) -> float:
        return self._clock() - entry.read_at

    def _may_ask(self, key: K) -> bool:
        return key in self._lookups or self._clock() >= self._retry_at

    def _task(self, key: K) -> asyncio.Task[Cached[V] | None]:
        """The look-up that runs, or a new one."""
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(self._look_up(key))
            task.add_done_callback(lambda done: self._keep(key, done))
        return task

    async def _lookup(self, key: K) -> Cached[V] | None:
        """Ask the database. Returns None while it is left alone, or if it answers too late."""
        if not self._may_ask(key):
            return None
        task = self._task(key)
        # Unlike wait_for: one waiter that goes away leaves the lookup to the others, and the
        # deadline holds even while a cancelled query is being cleaned up.
        done, _ = await asyncio.wait({task}, timeout=self._lookup_timeout_s)
        return task.result() if done else None

    async def _look_up(self, key: K) -> Cached[V] | None:
        asked_at = self._clock()  # Before the query: the answer may be as old as this.
        try:
            async with asyncio.timeout(self._lookup_timeout_s):
                return Cached(await self._ask(key), asked_at)
        except (DatabaseUnavailable, TimeoutError):
            self._retry_at = self._clock() + RETRY_WAIT_S
            return None

    def _keep(self, key: K, lookup: asyncio.Task[Cached[V] | None]) -> None:
        """Keep an answer, unless something was forgotten while it was asked for."""
        # A bug is told to whoever has to wait for the next look-up.
        entry = None if lookup.cancelled() or lookup.exception() else lookup.result()
        if self._lookups.get(key) is not lookup:
            return
        del self._lookups[key]
        if entry is None:
            return
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
