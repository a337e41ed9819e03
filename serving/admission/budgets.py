"""Budgets over windows of time: how each is named in Valkey, and what was spent of it.

Days and months are those of UTC in which a request began. Sums live in Valkey while they are used;
the ledger has the truth, and a sum that Valkey does not know is taken from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import cast

from serving.admission.demand import Budget
from serving.admission.limits import WINDOWS, Subject, Window
from serving.admission.policies import BudgetLimit
from serving.domain.clock import utc_now
from serving.domain.quota import Spent
from serving.storage.valkey import PREFIX, Valkey

_DAY_S = 86_400
KEPT_S: Mapping[Window, int] = {"day": 3 * _DAY_S, "month": 40 * _DAY_S, "total": 3650 * _DAY_S}
"""How long Valkey keeps a sum: longer than its window, so that a clock may go back a little."""

SpentInLedger = Callable[[str, date | None], Awaitable[int]]
"""What a subject (`key:...` or `tenant:...`) has spent since a day, or ever, in nanos."""


def budget_of(limit: BudgetLimit, day: date) -> Budget:
    """The budget of the window that `day` is in."""
    name = _name(str(limit.subject), limit.window, day)
    return Budget(name, limit.limit_nanos, KEPT_S[limit.window])


@lru_cache(maxsize=4096)
def sums_of(key_id: str, tenant: str, day: date) -> Sequence[str]:
    """Names of every budget that a key and its tenant can have for that day."""
    subjects = (Subject("key", key_id), Subject("tenant", tenant))
    return [_name(str(one), window, day) for one in subjects for window in WINDOWS]


def begin(window: Window, day: date) -> date | None:
    """Return the first day of the window that `day` is in; None for the total."""
    if window == "total":
        return None
    return day if window == "day" else day.replace(day=1)


class Lookups:
    """Looks up budgets in the ledger, once for all callers that ask for the same."""

    def __init__(self, ledger: SpentInLedger) -> None:
        self._ledger = ledger
        self._running: dict[tuple[str, date | None, int], asyncio.Task[int]] = {}

    async def spent(self, subject: str, since: date | None, *, version: int) -> int:
        """Return the spending of a budget at that version or later.

        Raises:
            DatabaseUnavailable: the ledger cannot be asked.
        """
        asked = (subject, since, version)
        lookup = self._running.get(asked)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(asked))
            self._running[asked] = lookup
            lookup.add_done_callback(_look_at)
        return await asyncio.shield(lookup)

    async def _look_up(self, asked: tuple[str, date | None, int]) -> int:
        subject, since, _ = asked
        try:
            return await self._ledger(subject, since)
        finally:
            del self._running[asked]


def _look_at(lookup: asyncio.Task[int]) -> None:
    """Mark an error as seen: the caller that waited for it may be gone."""
    if not lookup.cancelled():
        lookup.exception()


class BudgetSpending:
    """Reports what is spent of budgets, from Valkey or else from the ledger.

    Raises `ValkeyUnavailable` and `DatabaseUnavailable` as they do.
    """

    def __init__(self, valkey: Valkey, ledger: SpentInLedger, *, prefix: str = PREFIX) -> None:
        self._valkey = valkey
        self._ledger = ledger
        self._prefix = prefix

    async def spending(self, subject: str, windows: Sequence[str]) -> Mapping[str, Spent]:
        """Return the spending in today's windows, for a subject such as `tenant:acme`."""
        today = utc_now().date()
        return {
            window: await self._of(subject, cast("Window", window), today) for window in windows
        }

    async def _of(self, subject: str, window: Window, day: date) -> Spent:
        key = f"{self._prefix}budget:{_name(subject, window, day)}"
        spent, reserved = await self._valkey.command("HMGET", key, "spent", "reserved")
        if spent is None:
            spent = await self._ledger(subject, begin(window, day))
        return Spent(int(spent), int(reserved or 0))


def _name(subject: str, window: Window, day: date) -> str:
    first = begin(window, day)
    return f"{subject}:{window}" if first is None else f"{subject}:{window}:{first.isoformat()}"
