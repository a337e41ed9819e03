import asyncio

import pytest

from serving.access.errors import InvalidLimit, KeyNotFound, LimitNotFound, TenantNotFound
from serving.access.keys import KeyStore
from serving.access.tenants import TenantStore
from serving.admission.limits import (
    MAX_VALUE,
    RATES,
    Limit,
    LimitStore,
    LimitValue,
    Subject,
    budget_measure,
    default_policy,
)
from serving.storage.database import Database
from tests.serving.access.audited import actions, changes

ACME = Subject("tenant", "acme")


@pytest.fixture
def limits(database: Database) -> LimitStore:
    return LimitStore(database)


@pytest.fixture
async def acme(database: Database) -> Subject:
    await TenantStore(database).create("acme")
    return ACME


def values(found: object) -> dict[str, int]:
    return {limit.measure: limit.value for limit in found}  # type: ignore[attr-defined]


async def test_set_limit_is_found_by_its_subject(limits: LimitStore) -> None:
    made = await limits.set(Limit(ACME, "requests_per_minute", 60, "refuse"))
    await limits.set(Limit(Subject("key", "acme"), "requests_per_minute", 1, "allow"))
    assert made.updated_at is not None
    assert await limits.list(ACME) == [made]


async def test_limits_are_listed_by_kind_subject_and_measure(limits: LimitStore) -> None:
    for kind, name in (("tenant", "b"), ("tenant", "a"), ("model", "z")):
        await limits.set(Limit(Subject(kind, name), "tokens_per_minute", 1, "allow"))  # type: ignore[arg-type]
        await limits.set(Limit(Subject(kind, name), "budget_day", 1, "refuse"))  # type: ignore[arg-type]
    told = [(str(limit.subject), limit.measure) for limit in await limits.list()]
    assert told == [
        (subject, measure)
        for subject in ("model:z", "tenant:a", "tenant:b")
        for measure in ("budget_day", "tokens_per_minute")
    ]


async def test_second_value_takes_the_place_of_the_first(limits: LimitStore) -> None:
    await limits.set(Limit(ACME, "tokens_per_minute", 1, "allow"))
    second = await limits.set(Limit(ACME, "tokens_per_minute", 2, "refuse"))
    assert await limits.list() == [second]
    assert (second.value, second.without_store) == (2, "refuse")


async def test_limit_that_many_set_at_once_has_the_value_of_one(
    limits: LimitStore, database: Database
) -> None:
    await asyncio.gather(*(limits.set(Limit(ACME, "budget_day", n, "refuse")) for n in range(20)))
    (limit,) = await limits.list()
    assert 0 <= limit.value < 20
    assert await actions(database) == ["limit.set"] * 20


@pytest.mark.parametrize("value", [-1, MAX_VALUE + 1])
async def test_value_out_of_bounds_is_refused(
    limits: LimitStore, database: Database, acme: Subject, value: int
) -> None:
    with pytest.raises(InvalidLimit):
        await limits.set(Limit(acme, "budget_total", value, "refuse"))
    with pytest.raises(InvalidLimit):
        await limits.change(
            acme,
            {"budget_day": LimitValue(1, "allow"), "budget_total": LimitValue(value, "refuse")},
        )
    assert await limits.list() == []
    assert await actions(database) == ["tenant.create"]


@pytest.mark.parametrize("value", [0, MAX_VALUE])
async def test_value_at_its_bound_is_kept(limits: LimitStore, value: int) -> None:
    await limits.set(Limit(ACME, "budget_total", value, "refuse"))
    assert values(await limits.list()) == {"budget_total": value}


async def test_change_sets_some_removes_some_and_leaves_the_rest(
    limits: LimitStore, acme: Subject
) -> None:
    for measure in ("requests_per_minute", "tokens_per_minute", "budget_day"):
        await limits.set(Limit(acme, measure, 1, "allow"))
    await limits.change(
        acme,
        {
            "tokens_per_minute": None,
            "budget_month": None,
            "requests_per_minute": LimitValue(2, "refuse"),
            "concurrent_requests": LimitValue(3, "allow"),
        },
    )
    assert values(await limits.list(acme)) == {
        "budget_day": 1, "requests_per_minute": 2, "concurrent_requests": 3,
    }  # fmt: skip


async def test_changes_at_once_do_not_block_each_other(limits: LimitStore, acme: Subject) -> None:
    orders = [RATES, tuple(reversed(RATES))] * 6
    asked = [
        limits.change(acme, {rate: LimitValue(1, "allow") for rate in order}) for order in orders
    ]
    await asyncio.gather(*asked)
    assert values(await limits.list(acme)) == dict.fromkeys(RATES, 1)


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        (Subject("tenant", "nobody"), TenantNotFound),
        (Subject("key", "000000000000"), KeyNotFound),
        (Subject("key", "a b\x00"), KeyNotFound),
        (Subject("tenant", "a b\x00"), TenantNotFound),
    ],
)
async def test_change_of_a_subject_that_does_not_exist_is_an_error(
    limits: LimitStore, database: Database, subject: Subject, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await limits.change(subject, {"budget_day": LimitValue(1, "refuse")})
    assert (await limits.list(), await changes(database)) == ([], [])


async def test_change_of_the_default_tenant_adds_it(limits: LimitStore, database: Database) -> None:
    await limits.change(Subject("tenant", "default"), {"budget_day": LimitValue(1, "refuse")})
    assert [tenant.name for tenant in await TenantStore(database).list()] == ["default"]
    assert await actions(database) == ["tenant.create", "limit.set"]


async def test_key_of_the_environment_and_models_need_no_row(limits: LimitStore) -> None:
    for subject in (Subject("key", "env"), Subject("model", "org/m")):
        await limits.change(subject, {"tokens_per_minute": LimitValue(1, "allow")})
    assert len(await limits.list()) == 2


async def test_removed_limit_is_gone_and_cannot_be_removed_again(limits: LimitStore) -> None:
    await limits.set(Limit(ACME, "budget_day", 1, "refuse"))
    await limits.set(Limit(ACME, "budget_month", 1, "refuse"))
    await limits.remove(ACME, "budget_day")
    assert values(await limits.list()) == {"budget_month": 1}
    with pytest.raises(LimitNotFound, match="no budget_day is set for tenant 'acme'"):
        await limits.remove(ACME, "budget_day")


async def test_cleared_subject_keeps_other_measures(limits: LimitStore) -> None:
    for measure in ("requests_per_minute", "tokens_per_minute", "budget_day"):
        await limits.set(Limit(ACME, measure, 1, "allow"))
    await limits.clear(ACME, RATES)
    assert values(await limits.list()) == {"budget_day": 1}
    with pytest.raises(LimitNotFound):
        await limits.clear(ACME, RATES)


async def test_every_change_is_audited_with_its_actor(
    limits: LimitStore, database: Database
) -> None:
    subject = Subject("model", "m")
    await limits.set(Limit(subject, "tokens_per_minute", 1, "allow"), actor="boss")
    await limits.change(
        subject, {"budget_day": LimitValue(2, "refuse"), "tokens_per_minute": None}, actor="boss"
    )
    await limits.remove(subject, "budget_day", actor="boss")
    await limits.change(subject, {"budget_day": None}, actor="boss")
    assert await changes(database) == [
        (
            "boss", "limit.set", "model:m",
            {"measure": "tokens_per_minute", "value": 1, "without_store": "allow"},
        ),
        (
            "boss", "limit.set", "model:m",
            {"measure": "budget_day", "value": 2, "without_store": "refuse"},
        ),
        ("boss", "limit.remove", "model:m", {"measure": "tokens_per_minute"}),
        ("boss", "limit.remove", "model:m", {"measure": "budget_day"}),
    ]  # fmt: skip


async def test_rotated_key_keeps_its_limits(limits: LimitStore, store: KeyStore) -> None:
    old = await store.create("acme", "ci")
    for measure in ("requests_per_minute", "budget_day"):
        await limits.set(Limit(Subject("key", old.record.id), measure, 7, "refuse"))
    new = await store.rotate(old.record.id, grace_s=60)
    kept = await limits.list(Subject("key", new.record.id))
    assert values(kept) == {"budget_day": 7, "requests_per_minute": 7}
    assert {limit.without_store for limit in kept} == {"refuse"}
    assert len(await limits.list(Subject("key", old.record.id))) == 2


def test_budgets_refuse_and_rates_allow_unless_told() -> None:
    assert {default_policy(rate) for rate in RATES} == {"allow"}
    assert default_policy(budget_measure("total")) == "refuse"


def test_window_is_of_budgets_only() -> None:
    assert Limit(ACME, "budget_month", 1, "refuse").window == "month"
    assert Limit(ACME, "tokens_per_minute", 1, "allow").window is None
