import asyncio
import logging
import socket
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text

from serving.access.authenticator import FIXED_PRINCIPAL, Authenticator
from serving.access.fresh_cache import MAX_AGE_S
from serving.access.key_records import IssuedKey, StoredKey
from serving.access.key_text import KeyMint
from serving.access.keys import KeyStore
from serving.domain.errors import AccessError, InvalidKey, MissingKey, StoreUnavailable
from serving.domain.principal import Principal
from serving.storage.database import Database
from tests.calls import calls
from tests.serving.access.conftest import Clock, WatchedStore

FIXED = SecretStr("environment-key")


def plain(issued: IssuedKey) -> str:
    return issued.key.get_secret_value()


def bearer(issued: IssuedKey) -> str:
    return f"Bearer {plain(issued)}"


async def test_good_key_gives_its_principal(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci", allowed_models=["m1"])
    expected = Principal("acme", issued.record.id, "ci", "inference", frozenset({"m1"}))
    assert await authenticator.authenticate(bearer(issued)) == expected
    assert await authenticator.authenticate_key(plain(issued)) == expected


async def test_model_list_of_the_key_binds_the_principal(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci", allowed_models=["m1"])
    principal = await authenticator.authenticate(bearer(issued))
    assert (principal.may_use("m1"), principal.may_use("m2")) == (True, False)


async def test_admin_key_gives_an_admin_who_may_not_infer(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ops", role="admin")
    principal = await authenticator.authenticate(bearer(issued))
    assert (principal.role, principal.may_use("m1")) == ("admin", False)


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}", "  Bearer {}\t "])
async def test_scheme_is_read_in_any_case_and_spacing(
    store: WatchedStore, authenticator: Authenticator, form: str
) -> None:
    issued = await store.create("acme", "ci")
    principal = await authenticator.authenticate(form.format(plain(issued)))
    assert principal.key_id == issued.record.id


@pytest.mark.parametrize("header", [None, "", "  ", "Bearer", "Bearer ", "bearer \t "])
async def test_missing_key_is_told_as_missing(
    authenticator: Authenticator, header: str | None
) -> None:
    with pytest.raises(MissingKey):
        await authenticator.authenticate(header)


@pytest.mark.parametrize("key", [None, ""])
async def test_missing_bare_key_is_told_as_missing(
    authenticator: Authenticator, key: str | None
) -> None:
    with pytest.raises(MissingKey):
        await authenticator.authenticate_key(key)


async def test_every_bad_key_gets_the_same_answer(
    store: WatchedStore, authenticator: Authenticator, secret: SecretStr, clock: Clock
) -> None:
    good, revoked = await store.create("acme", "a"), await store.create("acme", "b")
    expired = await store.create("acme", "c", expires_at=clock.now() + timedelta(seconds=1))
    await store.revoke("b")
    clock.seconds = 1
    never_stored = KeyMint(secret).new("inference").get_secret_value()
    of_another_server = KeyMint(SecretStr("x" * 64)).new("inference").get_secret_value()
    headers = [
        bearer(revoked),
        bearer(expired),
        f"Bearer {never_stored}",
        f"Bearer {of_another_server}",
        bearer(good)[:-1] + ("0" if bearer(good)[-1] != "0" else "1"),
        bearer(good).replace("sk-rf-", "sk-rfadmin-"),
        bearer(good) + "0",
        f"Basic {plain(good)}",
        plain(good),
        "Bearer nonsense",
    ]
    errors = []
    for header in headers:
        with pytest.raises(AccessError) as raised:
            await authenticator.authenticate(header)
        errors.append((type(raised.value), raised.value.message, raised.value.param))
    assert errors == [(InvalidKey, "The API key is not valid.", None)] * len(headers)


async def test_key_of_a_cached_id_with_another_secret_is_refused(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    forged = plain(issued)[:19] + plain(issued)[19:][::-1]
    with pytest.raises(InvalidKey):
        await authenticator.authenticate_key(forged)


async def test_keys_end_when_the_server_secret_changes(store: WatchedStore, clock: Clock) -> None:
    issued = await store.create("acme", "ci")
    changed = Authenticator(store, SecretStr("y" * 64), fixed_key=None, clock=clock, now=clock.now)
    with pytest.raises(InvalidKey):
        await changed.authenticate(bearer(issued))


async def test_revocation_is_effective_within_the_bound(
    store: WatchedStore, authenticator: Authenticator, clock: Clock
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    await store.revoke("ci")
    clock.seconds = MAX_AGE_S
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(issued))


async def test_revoked_key_fails_at_the_bound_even_if_the_database_died(
    store: WatchedStore, authenticator: Authenticator, clock: Clock
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    await store.revoke("ci")
    store.down = True
    clock.seconds = MAX_AGE_S - 0.01
    await authenticator.authenticate(bearer(issued))
    clock.seconds = MAX_AGE_S
    with pytest.raises(StoreUnavailable):
        await authenticator.authenticate(bearer(issued))


async def test_deleted_key_is_refused_within_the_bound(
    store: WatchedStore, authenticator: Authenticator, database: Database, clock: Clock
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM tenants"))
    clock.seconds = MAX_AGE_S
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(issued))


async def test_expiry_is_effective_at_once_though_the_key_is_cached(
    store: WatchedStore, authenticator: Authenticator, clock: Clock
) -> None:
    issued = await store.create("acme", "ci", expires_at=clock.now() + timedelta(seconds=1))
    clock.seconds = 0.999
    await authenticator.authenticate(bearer(issued))
    clock.seconds = 1
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(issued))
    assert store.lookups == 1


async def test_rotation_without_grace_leaves_only_the_new_key(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    old = await store.create("acme", "ci")
    new = await store.rotate("ci")
    assert (await authenticator.authenticate(bearer(new))).key_name == "ci"
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(old))


async def test_rotation_with_grace_ends_the_old_key_on_time_though_it_is_cached(
    store: WatchedStore, authenticator: Authenticator, clock: Clock
) -> None:
    old = await store.create("acme", "ci")
    await store.rotate("ci", grace_s=1)
    await authenticator.authenticate(bearer(old))
    clock.seconds = 1
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(old))
    assert store.lookups == 1


async def test_burst_of_requests_asks_the_database_once(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci")
    asked = (authenticator.authenticate(bearer(issued)) for _ in range(500))
    assert len(set(await asyncio.gather(*asked))) == 1
    assert store.lookups == 1


async def test_made_up_keys_never_reach_the_database(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    mint = KeyMint(SecretStr("z" * 64))
    for _ in range(50):
        with pytest.raises(InvalidKey):
            await authenticator.authenticate_key(mint.new("inference").get_secret_value())
    assert store.lookups == 0


async def test_database_that_loses_its_tables_fails_closed(
    store: WatchedStore, authenticator: Authenticator, database: Database, clock: Clock
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    async with database.transaction() as session:
        await session.execute(text("DROP TABLE api_keys"))
    clock.seconds = MAX_AGE_S
    with pytest.raises(StoreUnavailable):
        await authenticator.authenticate(bearer(issued))


async def test_database_that_refuses_connections_fails_closed(secret: SecretStr) -> None:
    database = Database.open("postgresql://nobody@127.0.0.1:1/nothing")
    lonely = Authenticator(KeyStore(database, secret), secret, fixed_key=FIXED)
    with pytest.raises(StoreUnavailable):
        await lonely.authenticate_key(KeyMint(secret).new("inference").get_secret_value())
    assert await lonely.authenticate_key(FIXED.get_secret_value()) == FIXED_PRINCIPAL
    await database.close()


async def test_database_that_never_answers_fails_closed_in_time(secret: SecretStr) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database.open(f"postgresql://nobody@127.0.0.1:{port}/nothing")
        lonely = Authenticator(KeyStore(database, secret), secret, fixed_key=None)
        with pytest.raises(StoreUnavailable):
            await lonely.authenticate_key(KeyMint(secret).new("inference").get_secret_value())
        await database.close()


async def test_fixed_key_is_the_default_tenants_inference_key(
    store: WatchedStore, secret: SecretStr
) -> None:
    fixed = Authenticator(store, secret, fixed_key=FIXED)
    principal = await fixed.authenticate(f"Bearer {FIXED.get_secret_value()}")
    assert (principal.tenant, principal.key_id, principal.role) == ("default", "env", "inference")
    assert store.lookups == 0


async def test_stored_keys_work_beside_the_fixed_key(
    store: WatchedStore, secret: SecretStr
) -> None:
    fixed = Authenticator(store, secret, fixed_key=FIXED)
    issued = await store.create("acme", "ci")
    assert (await fixed.authenticate(bearer(issued))).tenant == "acme"


@pytest.mark.parametrize("wrong", ["environment-ke", "environment-keyx", "Environment-key"])
async def test_key_close_to_the_fixed_key_is_refused(
    store: WatchedStore, secret: SecretStr, wrong: str
) -> None:
    fixed = Authenticator(store, secret, fixed_key=FIXED)
    with pytest.raises(InvalidKey):
        await fixed.authenticate_key(wrong)


async def test_nobody_has_the_fixed_key_when_there_is_none(authenticator: Authenticator) -> None:
    for guess in ("env", "None", "null", FIXED.get_secret_value()):
        with pytest.raises(InvalidKey):
            await authenticator.authenticate_key(guess)


class NoStore(KeyStore):
    """A store that must not be called."""

    def __init__(self) -> None:
        """Open no database."""

    async def find(self, key_id: str) -> StoredKey | None:
        raise AssertionError(key_id)


def without_store(fixed_key: str | None = None) -> Authenticator:
    fixed = None if fixed_key is None else SecretStr(fixed_key)
    return Authenticator(NoStore(), SecretStr("w" * 64), fixed_key=fixed)


@pytest.mark.parametrize("key", ["", " ", "a b", "ключ", "a\n", "a" * 250])
def test_fixed_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="fixed key") as raised:
        without_store(key)
    assert not key.strip() or key not in str(raised.value)


# Lone surrogates too: they cannot be encoded.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=400)
SCHEMES = st.sampled_from(["Bearer ", "bearer", "Basic ", "BEARER  ", "", " "])
NEARLY_KEYS = st.from_regex(r"sk-rf(admin)?-[0-9A-Za-z]{11,13}-[0-9A-Za-z]{42,44}", fullmatch=True)
HEADERS = st.none() | TEXTS | st.tuples(SCHEMES, TEXTS | NEARLY_KEYS).map("".join)


@settings(deadline=None, max_examples=300)
@given(HEADERS)
async def test_any_header_of_a_stranger_is_refused_without_the_database(header: str | None) -> None:
    with pytest.raises((MissingKey, InvalidKey)):
        await without_store("fixed-key-of-this-test").authenticate(header)


@settings(deadline=None, max_examples=300)
@given(st.none() | TEXTS | NEARLY_KEYS)
async def test_any_bare_key_of_a_stranger_is_refused_without_the_database(key: str | None) -> None:
    with pytest.raises((MissingKey, InvalidKey)):
        await without_store("fixed-key-of-this-test").authenticate_key(key)


async def test_header_of_more_than_256_characters_is_refused_whatever_it_holds(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued).ljust(256))
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(issued).ljust(257))


async def test_nothing_that_is_logged_or_shown_holds_a_key_or_secret(
    database_url: str, secret: SecretStr, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for logger in (None, "sqlalchemy"):  # It has a level of its own.
        caplog.set_level(logging.DEBUG, logger)
    database = Database.open(database_url)  # Looks at the log level when it is opened.
    store = WatchedStore(database, secret, now=clock.now)
    checking = Authenticator(store, secret, fixed_key=FIXED, clock=clock, now=clock.now)
    issued = await store.create("acme", "ci")
    principal = await checking.authenticate(bearer(issued))
    store.down, clock.seconds = True, MAX_AGE_S
    with pytest.raises(StoreUnavailable) as raised:
        await checking.authenticate(bearer(issued))
    await database.close()
    assert "INSERT INTO api_keys" in caplog.text
    shown = f"{caplog.text} {principal!r} {checking!r} {vars(checking)!r} {raised.value!r}"
    for hidden in (plain(issued), plain(issued)[19:], secret.get_secret_value(), "ment-key"):
        assert hidden not in shown


async def test_cached_check_asks_no_database_and_costs_a_few_calls(
    store: WatchedStore, authenticator: Authenticator
) -> None:
    issued = await store.create("acme", "ci")
    await authenticator.authenticate(bearer(issued))
    with calls() as check:
        await authenticator.authenticate(bearer(issued))
    assert check.count < 80
    assert store.lookups == 1
