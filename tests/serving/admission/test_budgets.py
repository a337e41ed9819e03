"""Budgets over windows: their names, when they begin, and what is spent of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission.budgets import KEPT_S, BudgetSpending, Lookups, begin, budget_of
from serving.admission.demand import Budget, Demand, Settlement, Uninitialised
from serving.admission.limits import WINDOWS, Subject, Window
from serving.admission.policies import BudgetLimit
from serving.admission.reservations import Reservations
from serving.domain.quota import Quota, Spent
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable
from serving.storage.valkey import Valkey
from tests.elapsed import Elapsed
from tests.serving.valkeys import initialise

ACME = Subject("tenant", "acme")
DAYS = st.dates(date(2020, 1, 1), date(2100, 12, 31))
DAY_S = 86_400


def daily(limit_nanos: int = 1000) -> BudgetLimit:
    return BudgetLimit(ACME, "day", limit_nanos)


@pytest.mark.parametrize(
    ("window", "name"),
    [
        ("day", "tenant:acme:day:2026-02-28"),
        ("month", "tenant:acme:month:2026-02-01"),
        ("total", "tenant:acme:total"),
    ],
)
def test_budget_is_named_after_its_subject_and_window(window: Window, name: str) -> None:
    budget = budget_of(BudgetLimit(ACME, window, 7), date(2026, 2, 28))
    assert budget == Budget(name, limit_nanos=7, keep_s=KEPT_S[window])


@given(DAYS, DAYS)
def test_days_share_a_budget_exactly_where_they_share_its_window(one: date, other: date) -> None:
    def same(window: Window) -> bool:
        limit = BudgetLimit(ACME, window, 1)
        return budget_of(limit, one) == budget_of(limit, other)

    assert same("day") is (one == other)
    assert same("month") is ((one.year, one.month) == (other.year, other.month))
    assert same("total")


@given(DAYS)
def test_window_begins_at_its_first_day(day: date) -> None:
    assert begin("day", day) == day
    assert begin("month", day) == date(day.year, day.month, 1)
    assert begin("total", day) is None


@given(DAYS, st.sampled_from(["day", "month"]))
def test_sum_is_kept_for_a_day_longer_than_its_window(day: date, window: Window) -> None:
    first = begin(window, day)
    assert first is not None
    lasts = next(n for n in range(1, 40) if begin(window, first + timedelta(days=n)) != first)
    assert KEPT_S[window] >= (lasts + 1) * DAY_S


@pytest.fixture
async def near(embedded_valkey_url: str) -> AsyncIterator[Valkey]:
    opened = Valkey.open(embedded_valkey_url, timeout_s=5.0)
    yield opened
    await opened.close()


@pytest.fixture
async def reservations(near: Valkey, valkey_prefix: str) -> AsyncIterator[Reservations]:
    opened = Reservations(near, prefix=valkey_prefix)
    yield opened
    await opened.close()


def demand(name: str, budget: Budget, cost: int = 100) -> Demand:
    return Demand(name, 0, cost, [], [budget], [budget.name], facts="{}")


async def test_clock_that_goes_back_over_midnight_finds_the_old_sum_again(
    reservations: Reservations,
) -> None:
    before, after = (budget_of(daily(), date(2026, 3, day)) for day in (1, 2))
    await initialise(reservations, before, 0)
    spent = demand("a", before, cost=1000)
    assert isinstance(await reservations.reserve(spent), Quota)
    await reservations.settle(spent, Settlement(0, 950, None))
    assert await reservations.reserve(demand("b", after)) == Uninitialised(0, version=0)
    await initialise(reservations, after, 0)
    assert isinstance(await reservations.reserve(demand("c", after)), Quota)
    assert isinstance(await reservations.reserve(demand("d", before, cost=50)), Quota)
    assert not isinstance(await reservations.reserve(demand("e", before, cost=1)), Quota)


@pytest.mark.parametrize("window", WINDOWS)
async def test_sum_goes_away_some_time_after_its_window(
    reservations: Reservations, near: Valkey, valkey_prefix: str, window: Window
) -> None:
    budget, elapsed = budget_of(BudgetLimit(ACME, window, 1000), date(2026, 3, 1)), Elapsed()
    await initialise(reservations, budget, 5)
    left_s = await near.command("TTL", f"{valkey_prefix}budget:{budget.name}")
    assert elapsed.short_of(left_s, KEPT_S[window])


@dataclass
class FakeLedger:
    """Returns given sums and records queries. Fails on demand."""

    nanos: int = 0
    error: Exception | None = None
    asked: list[tuple[str, date | None]] = field(default_factory=list)

    async def __call__(self, subject: str, since: date | None) -> int:
        self.asked.append((subject, since))
        if self.error is not None:
            raise self.error
        return self.nanos


def today() -> date:
    return datetime.now(UTC).date()


async def test_spending_is_what_valkey_knows(
    reservations: Reservations, near: Valkey, valkey_prefix: str
) -> None:
    budget = budget_of(daily(), today())
    await initialise(reservations, budget, 40)
    await reservations.reserve(demand("a", budget, cost=300))
    ledger = FakeLedger(999)
    told = await BudgetSpending(near, ledger, prefix=valkey_prefix).spending("tenant:acme", ["day"])
    assert told == {"day": Spent(spent_nanos=40, reserved_nanos=300)}
    assert ledger.asked == []


async def test_spending_is_what_the_ledger_says_of_a_window_valkey_does_not_know(
    near: Valkey, valkey_prefix: str
) -> None:
    ledger = FakeLedger(7)
    told = await BudgetSpending(near, ledger, prefix=valkey_prefix).spending("tenant:acme", WINDOWS)
    assert told == dict.fromkeys(WINDOWS, Spent(7, 0))
    day = today()
    assert ledger.asked == [
        ("tenant:acme", day),
        ("tenant:acme", day.replace(day=1)),
        ("tenant:acme", None),
    ]


async def test_spending_of_windows_that_were_not_asked_for_is_not_told(
    near: Valkey, valkey_prefix: str
) -> None:
    spending = BudgetSpending(near, FakeLedger(), prefix=valkey_prefix)
    assert await spending.spending("tenant:acme", []) == {}


async def test_spending_that_cannot_be_told_is_no_number(near: Valkey, valkey_prefix: str) -> None:
    away = Valkey.open("redis://127.0.0.1:1")
    with pytest.raises(ValkeyUnavailable):
        await BudgetSpending(away, FakeLedger(), prefix="p").spending("tenant:acme", ["day"])
    await away.close()
    ledger = FakeLedger(error=DatabaseUnavailable("taken away"))
    with pytest.raises(DatabaseUnavailable):
        await BudgetSpending(near, ledger, prefix=valkey_prefix).spending("tenant:acme", ["day"])


async def test_lookups_ask_the_ledger_once_for_all_who_ask_for_the_same() -> None:
    asked: list[str] = []

    async def ledger(subject: str, _: date | None) -> int:
        asked.append(subject)
        await asyncio.sleep(0.01)
        return 7

    lookups = Lookups(ledger)
    same = [lookups.spent("key:a", None, version=1) for _ in range(20)]
    assert await asyncio.gather(*same, lookups.spent("key:a", None, version=2)) == [7] * 21
    assert asked == ["key:a", "key:a"]
    await lookups.spent("key:a", None, version=1)
    assert len(asked) == 3


async def test_lookups_go_on_for_others_when_one_gives_up() -> None:
    go = asyncio.Event()

    async def ledger(_: str, __: date | None) -> int:
        await go.wait()
        raise DatabaseUnavailable("away")

    lookups = Lookups(ledger)
    first, second = (asyncio.create_task(lookups.spent("key:a", None, version=1)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    with pytest.raises(DatabaseUnavailable):
        await second
