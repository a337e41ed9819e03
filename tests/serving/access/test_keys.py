import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from serving.access.errors import (
    InvalidName,
    InvalidTime,
    KeyAmbiguous,
    KeyInactive,
    KeyNameTaken,
    KeyNotFound,
    KeysError,
    TenantNotFound,
)
from serving.access.key_records import IssuedKey
from serving.access.key_text import KeyMint, public_id
from serving.access.keys import MAX_GRACE_S, KeyStore
from serving.domain.principal import Principal, Role
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from tests.serving.access.audited import changes
from tests.serving.access.conftest import Clock


def plain(issued: IssuedKey) -> str:
    return issued.key.get_secret_value()


async def test_created_key_is_listed_with_everything_but_its_text(
    store: KeyStore, clock: Clock
) -> None:
    expires = clock.now() + timedelta(days=1)
    issued = await store.create("acme", "ci", expires_at=expires, allowed_models=["m2", "m1", "m2"])
    (record,) = await store.list()
    assert record == issued.record
    assert (record.tenant, record.name, record.role) == ("acme", "ci", "inference")
    assert (record.created_at, record.expires_at, record.revoked_at) == (clock.now(), expires, None)
    assert (record.allowed_models, record.rotated_from) == (("m1", "m2"), None)
    assert (record.id, record.last4) == (public_id(plain(issued)), plain(issued)[-4:])


@pytest.mark.parametrize(("role", "prefix"), [("inference", "sk-rf-"), ("admin", "sk-rfadmin-")])
async def test_key_tells_its_role_by_its_prefix(store: KeyStore, role: Role, prefix: str) -> None:
    issued = await store.create("acme", "ci", role=role)
    assert plain(issued).startswith(prefix)


async def test_found_key_has_the_digest_of_its_text(store: KeyStore, secret: SecretStr) -> None:
    issued = await store.create("acme", "ci", role="admin", allowed_models=["m"])
    found = await store.find(issued.record.id)
    assert found is not None
    assert found.digest == KeyMint(secret).digest(plain(issued))
    assert found.principal == Principal(
        "acme", issued.record.id, "ci", "admin", frozenset({"m"}), "local_only"
    )


async def test_key_keeps_its_groups_and_its_user_when_it_is_rotated(store: KeyStore) -> None:
    first = await store.create("acme", "ci", groups=["legal", "hr", "hr"], user="ann")
    second = await store.rotate(first.record.id)
    for issued in (first, second):
        found = await store.find(issued.record.id)
        assert found is not None
        assert found.principal.groups == frozenset({"hr", "legal"})
        assert found.principal.user == "ann"
        assert (issued.record.groups, issued.record.user) == (("hr", "legal"), "ann")


@pytest.mark.parametrize("named", [{"groups": ["a b"]}, {"user": "a/b"}, {"groups": [""]}])
async def test_group_or_user_that_is_no_name_is_refused(
    store: KeyStore, named: dict[str, Any]
) -> None:
    with pytest.raises(InvalidName):
        await store.create("acme", "ci", **named)


async def test_unknown_id_finds_nothing(store: KeyStore) -> None:
    assert await store.find("000000000000") is None


async def test_database_holds_no_part_of_a_key_but_its_id_and_end(
    store: KeyStore, database: Database
) -> None:
    issued = await store.create("acme", "ci")
    async with database.session() as session:
        row = (await session.execute(text("SELECT * FROM api_keys"))).one()
    kept = " ".join(str(value) for value in row)
    hidden = plain(issued).rpartition("-")[2][:-4]
    assert not any(hidden[i : i + 6] in kept for i in range(len(hidden) - 6))


async def test_keys_of_a_new_tenant_can_be_created_at_once(store: KeyStore) -> None:
    await asyncio.gather(*(store.create("acme", f"key-{i}") for i in range(20)))
    assert len(await store.list("acme")) == 20


async def test_name_goes_to_one_of_those_who_ask_at_once(store: KeyStore) -> None:
    asked = [store.create("acme", "ci") for _ in range(10)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    assert kinds == ["IssuedKey"] + ["KeyNameTaken"] * 9
    assert len(await store.list()) == 1


async def test_name_may_be_used_by_another_tenant(store: KeyStore) -> None:
    await store.create("acme", "ci")
    await store.create("umbrella", "ci")
    assert [record.tenant for record in await store.list()] == ["acme", "umbrella"]


async def test_name_is_free_again_after_revoking(store: KeyStore) -> None:
    first = await store.create("acme", "ci")
    await store.revoke("ci")
    second = await store.create("acme", "ci")
    assert first.record.id != second.record.id


async def test_name_of_an_expired_key_is_still_taken(store: KeyStore, clock: Clock) -> None:
    await store.create("acme", "ci", expires_at=clock.now() + timedelta(seconds=1))
    clock.seconds += 2
    with pytest.raises(KeyNameTaken, match="'ci'"):
        await store.create("acme", "ci")


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", ".a", "a/b", "a\n", "ä", "a\x00", "a" * 65, "a;drop table api_keys"],
)
async def test_name_with_other_characters_or_length_is_refused(store: KeyStore, name: str) -> None:
    for tenant, key_name in [(name, "ok"), ("ok", name)]:
        with pytest.raises(InvalidName):
            await store.create(tenant, key_name)
    assert await store.list() == []


async def test_longest_name_is_accepted(store: KeyStore) -> None:
    issued = await store.create("t" * 64, "n" * 64)
    assert (issued.record.tenant, issued.record.name) == ("t" * 64, "n" * 64)


@pytest.mark.parametrize("model", ["", "a b", "a\x00", "m" * 129])
async def test_model_with_an_impossible_name_is_refused(store: KeyStore, model: str) -> None:
    with pytest.raises(InvalidName, match="model"):
        await store.create("acme", "ci", allowed_models=[model])


async def test_expiry_must_lie_ahead_and_have_a_zone(store: KeyStore, clock: Clock) -> None:
    late = datetime(2027, 1, 1)  # noqa: DTZ001 - the point of the test.
    too_late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    for wrong in (clock.now(), clock.now() - timedelta(days=1), late, too_late):
        with pytest.raises(InvalidTime):
            await store.create("acme", "ci", expires_at=wrong)


async def test_list_can_be_of_one_tenant(store: KeyStore) -> None:
    await store.create("acme", "b")
    await store.create("acme", "a")
    await store.create("umbrella", "c")
    assert [record.name for record in await store.list("acme")] == ["a", "b"]
    assert await store.list("nobody") == []


@pytest.mark.parametrize("by", ["id", "name"])
async def test_revoked_key_stays_listed_with_its_time(
    store: KeyStore, clock: Clock, by: str
) -> None:
    issued = await store.create("acme", "ci")
    clock.seconds = 7
    record = await store.revoke(getattr(issued.record, by))
    assert (record.revoked_at, record.status(clock.now())) == (clock.now(), "revoked")
    assert await store.list() == [record]


async def test_revoking_twice_keeps_the_first_time(store: KeyStore, clock: Clock) -> None:
    issued = await store.create("acme", "ci")
    first = await store.revoke(issued.record.id)
    clock.seconds = 9
    assert await store.revoke(issued.record.id) == first


@pytest.mark.parametrize("which", ["nothing", "000000000000", "", "a b", "\x00", "x" * 10_000])
async def test_revoking_what_does_not_exist_is_an_error(store: KeyStore, which: str) -> None:
    with pytest.raises(KeyNotFound):
        await store.revoke(which)


async def test_name_of_several_tenants_needs_the_tenant(store: KeyStore) -> None:
    await store.create("acme", "ci")
    await store.create("umbrella", "ci")
    with pytest.raises(KeyAmbiguous, match="acme, umbrella"):
        await store.revoke("ci")
    assert (await store.revoke("ci", "umbrella")).tenant == "umbrella"


async def test_tenant_guards_an_id_of_another(store: KeyStore) -> None:
    issued = await store.create("acme", "ci")
    with pytest.raises(KeyNotFound):
        await store.revoke(issued.record.id, "umbrella")


async def test_id_counts_before_a_name_that_looks_like_it(store: KeyStore) -> None:
    first = await store.create("acme", "ci")
    await store.create("umbrella", first.record.id)
    assert (await store.revoke(first.record.id)).id == first.record.id


async def test_rotated_key_has_the_rights_of_the_old(store: KeyStore, clock: Clock) -> None:
    expires = clock.now() + timedelta(days=1)
    old = await store.create("acme", "ci", role="admin", expires_at=expires, allowed_models=["m"])
    clock.seconds = 5
    new = await store.rotate(old.record.id)
    assert plain(new) != plain(old)
    assert new.record.rotated_from == old.record.id
    same = ("tenant", "name", "role", "expires_at", "allowed_models")
    assert [getattr(new.record, at) for at in same] == [getattr(old.record, at) for at in same]
    statuses = {record.id: record.status(clock.now()) for record in await store.list()}
    assert statuses == {old.record.id: "revoked", new.record.id: "active"}


async def test_rotated_key_works_on_for_its_grace(store: KeyStore, clock: Clock) -> None:
    old = await store.create("acme", "ci")
    await store.rotate("ci", grace_s=60)
    found = await store.find(old.record.id)
    assert found is not None
    assert found.works(clock.now() + timedelta(seconds=59))
    assert not found.works(clock.now() + timedelta(seconds=60))


async def test_retiring_key_can_be_revoked_at_once(store: KeyStore, clock: Clock) -> None:
    old = await store.create("acme", "ci")
    await store.rotate("ci", grace_s=60)
    assert (await store.revoke(old.record.id)).status(clock.now()) == "revoked"


async def test_key_that_has_ended_cannot_be_rotated(store: KeyStore, clock: Clock) -> None:
    revoked = await store.create("acme", "a")
    await store.revoke("a")
    expired = await store.create("acme", "b", expires_at=clock.now() + timedelta(seconds=1))
    retiring = await store.create("acme", "c")
    await store.rotate("c", grace_s=60)
    clock.seconds = 2
    for issued in (revoked, expired, retiring):
        with pytest.raises(KeyInactive):
            await store.rotate(issued.record.id)


async def test_key_is_rotated_by_one_of_those_who_ask_at_once(store: KeyStore) -> None:
    old = await store.create("acme", "ci")
    asked = [store.rotate(old.record.id) for _ in range(8)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    assert kinds == ["IssuedKey"] + ["KeyInactive"] * 7


@pytest.mark.parametrize("grace_s", [-1, MAX_GRACE_S + 1, float("nan"), float("inf")])
async def test_grace_out_of_bounds_is_refused(store: KeyStore, grace_s: float) -> None:
    await store.create("acme", "ci")
    with pytest.raises(InvalidTime):
        await store.rotate("ci", grace_s=grace_s)


async def test_issued_key_shows_its_text_in_no_form(store: KeyStore, secret: SecretStr) -> None:
    issued = await store.create("acme", "ci")
    found = await store.find(issued.record.id)
    shown = f"{issued} {issued!r} {issued.key} {found!r} {store!r} {vars(store)!r}"
    assert plain(issued) not in shown
    assert plain(issued).rpartition("-")[2] not in shown
    assert secret.get_secret_value() not in shown


async def test_keys_come_in_pages_in_the_order_of_the_list(store: KeyStore, clock: Clock) -> None:
    for tenant, name in [("b", "x"), ("a", "y"), ("a", "x"), ("a", "x"), ("c", "x")]:
        clock.seconds += 1
        await store.create(tenant, name)
        await store.revoke(name, tenant)
    whole = [record.id for record in await store.list()]
    pages = [await store.list(limit=2)]
    for _ in range(2):
        pages.append(await store.list(limit=2, after=pages[-1][-1].id))
    assert [[record.id for record in page] for page in pages] == [whole[:2], whole[2:4], whole[4:]]
    assert [record.id for record in await store.list("a", limit=9, after=whole[0])] == whole[1:3]


@pytest.mark.parametrize("key_id", ["000000000000", "", "\x00", "x" * 10_000])
async def test_id_that_no_key_has_is_an_error(store: KeyStore, key_id: str) -> None:
    with pytest.raises(KeyNotFound):
        await store.get(key_id)
    with pytest.raises(KeyNotFound):
        await store.list(after=key_id)


async def test_name_is_no_id(store: KeyStore) -> None:
    issued = await store.create("acme", "ci")
    assert await store.get(issued.record.id) == issued.record
    with pytest.raises(KeyNotFound):
        await store.get("ci")


async def test_tenant_must_exist_where_none_may_be_added(
    store: KeyStore, database: Database
) -> None:
    with pytest.raises(TenantNotFound):
        await store.create("acme", "ci", new_tenant=False)
    assert (await store.list(), await changes(database)) == ([], [])
    await store.create("acme", "ci")
    assert (await store.create("acme", "cd", new_tenant=False)).record.tenant == "acme"


async def test_every_change_is_audited_with_its_actor(
    store: KeyStore, database: Database, clock: Clock
) -> None:
    expires = clock.now() + timedelta(days=1)
    old = await store.create("acme", "ci", expires_at=expires, allowed_models=["m"], actor="boss")
    new = await store.rotate("ci", grace_s=5, actor="boss")
    await store.revoke(new.record.id, actor="boss")
    rights = {
        "role": "inference", "expires_at": expires.isoformat(), "allowed_models": ["m"],
        "privacy": "local_only",
        "groups": [],
        "user": None,
    }  # fmt: skip
    named = {"tenant": "acme", "name": "ci"}
    assert await changes(database) == [
        ("boss", "tenant.create", "tenant:acme", {"weight": 1.0}),
        ("boss", "key.create", f"key:{old.record.id}", named | rights),
        (
            "boss", "key.rotate", f"key:{old.record.id}",
            named | {"successor": new.record.id, "grace_s": 5},
        ),
        ("boss", "key.revoke", f"key:{new.record.id}", named),
    ]  # fmt: skip


async def test_what_changes_nothing_is_not_audited(store: KeyStore, database: Database) -> None:
    issued = await store.create("acme", "ci")
    await store.revoke("ci")
    before = await changes(database)
    await store.revoke(issued.record.id)
    for failing in (store.revoke("nothing"), store.rotate(issued.record.id)):
        with pytest.raises(KeysError):
            await failing
    assert await changes(database) == before


async def test_audit_holds_no_part_of_a_key_but_its_id(store: KeyStore, database: Database) -> None:
    issued = [await store.create("acme", "ci"), await store.rotate("ci")]
    await store.revoke("ci")
    async with database.session() as session:
        kept = str((await session.execute(text("SELECT * FROM audit_events"))).all())
    for one in issued:
        hidden = plain(one).rpartition("-")[2]
        assert not any(hidden[i : i + 6] in kept for i in range(len(hidden) - 6))


async def test_store_without_its_database_says_so(secret: SecretStr) -> None:
    database = Database.open("postgresql://nobody@127.0.0.1:1/nothing")
    store = KeyStore(database, secret, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(DatabaseUnavailable):
        await store.create("acme", "ci")
    await database.close()
