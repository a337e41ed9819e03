"""Which limits apply to a request: its subjects' own before the defaults, a few seconds old."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from serving.access.fresh_cache import MAX_AGE_S, TTL_S
from serving.access.tenants import TenantStore
from serving.admission.demand import RateLimits
from serving.admission.limits import RATES, Limit, LimitStore, Measure, Subject, WithoutStore
from serving.admission.policies import BudgetLimit, Policies, Policy
from serving.config import AdmissionSettings
from serving.domain.errors import StoreUnavailable
from serving.domain.principal import Principal
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from serving.storage.migrate import upgrade
from tests.serving.access.conftest import Clock

CALLER = Principal("acme", "k1", "ci", "inference", None)
KEY, TENANT, MODEL = Subject("key", "k1"), Subject("tenant", "acme"), Subject("model", "m")


class Leaving(Database):
    """A database that can be made unavailable, and counts reads."""

    down = False
    reads = 0

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        self.reads += 1
        if self.down:
            raise DatabaseUnavailable("taken away")
        async with super().session() as session:
            yield session


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policies") / "ringfence.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def database(empty_file: Path, tmp_path: Path) -> AsyncIterator[Leaving]:
    opened = Leaving.open(f"sqlite:///{shutil.copy(empty_file, tmp_path / 'ringfence.db')}")
    yield opened
    await opened.close()


def policies(database: Database, *, clock: Clock | None = None, **settings: Any) -> Policies:
    return Policies(database, AdmissionSettings.model_validate(settings), clock=clock or Clock())


async def own(
    database: Database, subject: Subject, policy: WithoutStore = "allow", **values: int
) -> None:
    measures: dict[Measure, int] = values  # type: ignore[assignment]
    for measure, value in measures.items():
        await LimitStore(database).set(Limit(subject, measure, value, policy))


async def test_nothing_limits_who_has_no_limit(database: Database) -> None:
    policy = await policies(database).of(CALLER, "m")
    assert policy == Policy([], [], None, refuses_without_store=False, weight=1.0)
    assert policy.is_empty
    assert not policy.counts_tokens


async def test_own_limit_takes_the_place_of_the_default_of_its_measure_alone(
    database: Database,
) -> None:
    await own(database, KEY, requests_per_minute=5, budget_day=7)
    policy = await policies(
        database,
        per_key={
            "requests_per_minute": 1,
            "tokens_per_minute": 2,
            "budget_day": "0.5",
            "budget_month": "0.25",
        },
    ).of(CALLER, "m")
    assert policy.rates == [RateLimits("key:k1", requests_per_minute=5, tokens_per_minute=2)]
    assert sorted(policy.budgets, key=lambda budget: budget.window) == [
        BudgetLimit(KEY, "day", 7),
        BudgetLimit(KEY, "month", 250_000_000),
    ]


async def test_key_tenant_and_model_each_have_their_limits(database: Database) -> None:
    await own(database, TENANT, tokens_per_minute=9)
    policy = await policies(
        database,
        per_key={"requests_per_minute": 1},
        per_tenant={"requests_per_minute": 2, "budget_total": 1},
        per_model={"concurrent_requests": 3},
    ).of(CALLER, "m")
    assert policy.rates == [
        RateLimits("key:k1", requests_per_minute=1),
        RateLimits("tenant:acme", requests_per_minute=2, tokens_per_minute=9),
        RateLimits("model:m", concurrent_requests=3),
    ]
    assert policy.budgets == [BudgetLimit(TENANT, "total", 10**9)]


async def test_limit_of_nothing_is_no_missing_limit(database: Database) -> None:
    await own(database, KEY, requests_per_minute=0, tokens_per_request=0, budget_day=0)
    policy = await policies(
        database,
        per_key={"requests_per_minute": 5, "tokens_per_request": 5, "budget_day": 5},
    ).of(CALLER, "m")
    assert policy.rates == [RateLimits("key:k1", requests_per_minute=0)]
    assert policy.budgets == [BudgetLimit(KEY, "day", 0)]
    assert policy.tokens_per_request == 0


async def test_limits_of_others_do_not_apply(database: Database) -> None:
    await own(database, Subject("key", "acme"), requests_per_minute=1)
    await own(database, Subject("tenant", "m"), requests_per_minute=1)
    await own(database, Subject("model", "k1"), requests_per_minute=1)
    assert (await policies(database).of(CALLER, "m")).is_empty


async def test_smallest_bound_on_one_request_counts(database: Database) -> None:
    await own(database, TENANT, tokens_per_request=50)
    settings: dict[str, Any] = {
        "per_key": {"tokens_per_request": 70},
        "per_model": {"tokens_per_request": 60},
    }
    policy = await policies(database, **settings).of(CALLER, "m")
    assert policy.tokens_per_request == 50
    assert policy.is_empty
    assert policy.counts_tokens


@pytest.mark.parametrize("value", ["0.000000001", "0.1", "9000000", "8999999.999999999"])
async def test_budget_of_the_configuration_is_exact(database: Database, value: str) -> None:
    policy = await policies(database, per_key={"budget_total": value}).of(CALLER, "m")
    whole, _, decimals = value.partition(".")
    assert [budget.limit_nanos for budget in policy.budgets] == [
        int(whole + decimals.ljust(9, "0"))
    ]


@pytest.mark.parametrize(
    ("measure", "counts"),
    [
        ("requests_per_minute", False),
        ("concurrent_requests", False),
        ("tokens_per_minute", True),
        ("tokens_per_request", True),
        ("budget_day", True),
        ("budget_month", True),
        ("budget_total", True),
    ],
)
async def test_tokens_are_counted_only_where_a_limit_is_on_them(
    database: Database, measure: str, *, counts: bool
) -> None:
    policy = await policies(database, per_key={measure: 1}).of(CALLER, "m")
    assert policy.counts_tokens is counts


async def test_rates_let_through_without_a_store_and_budgets_do_not(database: Database) -> None:
    rates = await policies(database, per_key=dict.fromkeys(RATES, 1)).of(CALLER, "m")
    budgets = await policies(database, per_tenant={"budget_day": 1}).of(CALLER, "m")
    assert (rates.refuses_without_store, budgets.refuses_without_store) == (False, True)


async def test_limit_that_needs_no_store_does_not_make_the_others_refuse(
    database: Database,
) -> None:
    await own(database, TENANT, "refuse", tokens_per_request=5)
    assert not (await policies(database).of(CALLER, "m")).refuses_without_store


async def test_one_limit_that_refuses_without_a_store_is_enough(database: Database) -> None:
    await own(database, TENANT, "refuse", requests_per_minute=5)
    settings: dict[str, Any] = {"per_key": {"budget_day": {"value": 1, "without_store": "allow"}}}
    assert (await policies(database, **settings).of(CALLER, "m")).refuses_without_store
    other = Principal("zeta", "k1", "ci", "inference", None)
    assert not (await policies(database, **settings).of(other, "m")).refuses_without_store


async def test_own_limit_s_policy_goes_before_the_default_s(database: Database) -> None:
    await own(database, KEY, "allow", requests_per_minute=5)
    settings: dict[str, Any] = {
        "per_key": {"requests_per_minute": {"value": 1, "without_store": "refuse"}}
    }
    assert not (await policies(database, **settings).of(CALLER, "m")).refuses_without_store


async def test_weight_is_the_tenant_s(database: Database) -> None:
    await TenantStore(database).create("acme", weight=2.5)
    assert (await policies(database).of(CALLER, "m")).weight == 2.5


async def test_change_is_seen_soon_after_two_seconds(database: Leaving) -> None:
    clock = Clock()
    asked = policies(database, clock=clock)
    await asked.of(CALLER, "m")
    await own(database, KEY, requests_per_minute=5)
    clock.seconds = TTL_S - 0.01
    assert (await asked.of(CALLER, "m")).is_empty
    clock.seconds = TTL_S
    await asked.of(CALLER, "m")  # Still the old answer, and a new one is on its way.
    async with asyncio.timeout(30):
        while (await asked.of(CALLER, "m")).is_empty:  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.01)
    assert (await asked.of(CALLER, "m")).rates == [RateLimits("key:k1", requests_per_minute=5)]


async def test_database_is_not_asked_for_every_request(database: Leaving) -> None:
    asked = policies(database)
    await asked.of(CALLER, "m")
    reads = database.reads
    await asked.of(CALLER, "m")
    assert (reads > 0, database.reads) == (True, reads)


async def test_each_key_tenant_and_model_is_looked_up_for_itself(database: Database) -> None:
    asked = policies(database)
    assert (await asked.of(CALLER, "m")).is_empty
    await own(database, Subject("model", "n"), requests_per_minute=5)
    assert not (await asked.of(CALLER, "n")).is_empty
    await own(database, Subject("key", "k2"), requests_per_minute=5)
    assert not (await asked.of(Principal("acme", "k2", "ci", "inference", None), "m")).is_empty
    await own(database, Subject("tenant", "zeta"), requests_per_minute=5)
    assert not (await asked.of(Principal("zeta", "k1", "ci", "inference", None), "m")).is_empty


async def test_old_answer_serves_for_five_seconds_while_the_database_is_away(
    database: Leaving,
) -> None:
    clock = Clock()
    asked = policies(database, clock=clock, per_key={"requests_per_minute": 5})
    known = await asked.of(CALLER, "m")
    database.down = True
    clock.seconds = MAX_AGE_S - 0.01
    assert await asked.of(CALLER, "m") == known
    clock.seconds = MAX_AGE_S
    with pytest.raises(StoreUnavailable):
        await asked.of(CALLER, "m")


async def test_nobody_is_let_in_by_limits_that_were_never_read(database: Leaving) -> None:
    database.down = True
    with pytest.raises(StoreUnavailable):
        await policies(database).of(CALLER, "m")
