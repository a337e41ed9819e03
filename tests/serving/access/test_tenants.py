import asyncio
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from serving.access.errors import InvalidName, InvalidWeight, KeyNotFound, TenantNotFound
from serving.access.errors import TenantExists as Exists
from serving.access.keys import KeyStore
from serving.access.tenants import MAX_WEIGHT, Tenant, TenantStore
from serving.admission.limits import Limit, LimitStore, LimitValue, Subject
from serving.storage.database import Database
from serving.storage.schema import UsageAttempt
from tests.serving.access.audited import actions, changes
from tests.serving.access.conftest import Clock


@pytest.fixture
def tenants(database: Database, clock: Clock) -> TenantStore:
    return TenantStore(database, now=clock.now)


async def test_created_tenant_is_listed_with_its_weight(tenants: TenantStore, clock: Clock) -> None:
    made = await tenants.create("acme", weight=2.5)
    assert made == Tenant("acme", clock.now(), 2.5)
    assert await tenants.list() == [made]
    assert await tenants.get("acme") == made


async def test_tenants_are_listed_by_name_and_in_pages(tenants: TenantStore) -> None:
    for name in ("c", "a", "d", "b"):
        await tenants.create(name)
    pages = [await tenants.list(limit=2), await tenants.list(limit=2, after="b")]
    assert [[tenant.name for tenant in page] for page in pages] == [["a", "b"], ["c", "d"]]


async def test_tenant_that_a_key_added_has_weight_one(
    tenants: TenantStore, store: KeyStore
) -> None:
    await store.create("acme", "ci")
    assert (await tenants.get("acme")).weight == 1


async def test_name_goes_to_one_of_those_who_ask_at_once(
    tenants: TenantStore, database: Database
) -> None:
    asked = [tenants.create("acme") for _ in range(6)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["Tenant"] + ["TenantExists"] * 5
    assert await actions(database) == ["tenant.create"]


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "a\n", "ä", "a\x00", "a" * 65, "=1+1"])
async def test_name_with_other_characters_or_length_is_refused(
    tenants: TenantStore, name: str
) -> None:
    with pytest.raises(InvalidName):
        await tenants.create(name)


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 0.5, float("nan"), float("inf")])
async def test_weight_out_of_bounds_is_refused(
    tenants: TenantStore, database: Database, weight: float
) -> None:
    with pytest.raises(InvalidWeight):
        await tenants.create("acme", weight=weight)
    await tenants.create("globex")
    with pytest.raises(InvalidWeight):
        await tenants.set_weight("globex", weight)
    assert await actions(database) == ["tenant.create"]


async def test_weight_can_be_changed(tenants: TenantStore) -> None:
    await tenants.create("acme")
    assert (await tenants.set_weight("acme", MAX_WEIGHT)).weight == MAX_WEIGHT
    assert (await tenants.get("acme")).weight == MAX_WEIGHT


@pytest.mark.parametrize("name", ["nobody", "", "a b", "\x00", "x" * 10_000])
async def test_tenant_that_does_not_exist_is_an_error(tenants: TenantStore, name: str) -> None:
    for call in (tenants.get(name), tenants.set_weight(name, 1), tenants.delete(name)):
        with pytest.raises(TenantNotFound):
            await call


async def test_taken_name_is_an_error(tenants: TenantStore) -> None:
    await tenants.create("acme")
    with pytest.raises(Exists, match="'acme'"):
        await tenants.create("acme")


async def test_deleted_tenant_takes_its_keys_and_the_limits_of_both(
    tenants: TenantStore, store: KeyStore, database: Database
) -> None:
    limits = LimitStore(database)
    kept, gone = await store.create("globex", "ci"), await store.create("acme", "ci")
    for subject in (
        Subject("tenant", "acme"), Subject("tenant", "globex"), Subject("model", "acme"),
        Subject("key", kept.record.id), Subject("key", gone.record.id),
    ):  # fmt: skip
        await limits.set(Limit(subject, "requests_per_minute", 1, "allow"))
    await tenants.delete("acme")
    assert {limit.subject for limit in await limits.list()} == {
        Subject("tenant", "globex"), Subject("model", "acme"), Subject("key", kept.record.id),
    }  # fmt: skip
    assert [record.tenant for record in await store.list()] == ["globex"]
    assert await store.find(gone.record.id) is None
    with pytest.raises(KeyNotFound):
        await store.get(gone.record.id)


async def test_deleted_tenant_with_a_rotated_key_is_gone(
    tenants: TenantStore, store: KeyStore
) -> None:
    await store.create("acme", "ci")
    await store.rotate("ci", grace_s=60)
    await tenants.delete("acme")
    assert await store.list() == []


async def test_usage_of_a_deleted_tenant_stays(tenants: TenantStore, database: Database) -> None:
    await tenants.create("acme")
    row = UsageAttempt(
        id="a", request_id="r", tenant="acme", key_id="k", model="m", route="local",
        endpoint="chat", outcome="ok", day="2026-01-01", started_at=datetime.now(UTC),
        duration_ms=1, prompt_tokens=1, completion_tokens=1, cached_tokens=0, estimated=False,
        cost_nanos=1,
    )  # fmt: skip
    async with database.transaction() as session:
        session.add(row)
    await tenants.delete("acme")
    async with database.session() as session:
        assert await session.scalar(select(func.count()).select_from(UsageAttempt)) == 1


async def test_every_change_is_audited_with_its_actor(
    tenants: TenantStore, store: KeyStore, database: Database
) -> None:
    await tenants.create("acme", weight=2, actor="boss")
    key = await store.create("acme", "ci", actor="boss")
    await tenants.set_weight("acme", 3, actor="boss")
    await tenants.delete("acme", actor="boss")
    told = [one for one in await changes(database) if one[1].startswith("tenant")]
    assert told == [
        ("boss", "tenant.create", "tenant:acme", {"weight": 2}),
        ("boss", "tenant.update", "tenant:acme", {"weight": 3}),
        ("boss", "tenant.delete", "tenant:acme", {"keys": [key.record.id]}),
    ]


async def test_actor_is_the_command_unless_told(tenants: TenantStore, database: Database) -> None:
    await tenants.create("acme")
    await tenants.set_weight("acme", 3)
    await tenants.delete("acme")
    assert {actor for actor, *_ in await changes(database)} == {"command"}


async def test_tenant_is_deleted_while_keys_and_limits_are_made(
    tenants: TenantStore, database: Database, secret: SecretStr
) -> None:
    keys, limits = KeyStore(database, secret), LimitStore(database)
    await tenants.create("acme")

    async def make(at: int) -> None:
        key = await keys.create("acme", f"k{at}", new_tenant=False)
        await limits.change(
            Subject("key", key.record.id), {"tokens_per_minute": LimitValue(at, "allow")}
        )

    work = [make(at) for at in range(8)]
    outcomes = await asyncio.gather(*work, tenants.delete("acme"), return_exceptions=True)
    assert {type(one) for one in outcomes} <= {type(None), TenantNotFound, KeyNotFound}
    assert (await keys.list(), await limits.list()) == ([], [])
