import asyncio
import os
import sqlite3
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from rag.schema import Base
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable, DatabaseUrlInvalid
from serving.storage.migrate import upgrade
from serving.storage.schema import ApiKey, TenantRow

NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tenant(name: str) -> TenantRow:
    return TenantRow(name=name, created_at=NOW)


async def tenants(database: Database) -> list[str]:
    async with database.session() as session:
        return list(await session.scalars(select(TenantRow.name).order_by(TenantRow.name)))


async def test_transaction_commits_when_its_block_ends(database: Database) -> None:
    async with database.transaction() as session:
        session.add(tenant("acme"))
    assert await tenants(database) == ["acme"]


async def test_transaction_rolls_back_when_its_block_raises(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            session.add(tenant("acme"))
            await session.flush()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await tenants(database) == []


async def test_session_cannot_write(database: Database) -> None:
    async def write() -> None:
        async with database.session() as session:
            await session.execute(text("DELETE FROM tenants"))

    with pytest.raises(DatabaseUnavailable, match=r"read-?only"):
        await write()


async def test_session_sees_one_state_however_long_it_reads(database: Database) -> None:
    names = select(TenantRow.name)
    async with database.session() as session:
        before = list(await session.scalars(names))
        async with database.transaction() as other:
            other.add(tenant("acme"))
        assert list(await session.scalars(names)) == before
    assert await tenants(database) == ["acme"]


async def test_connection_writes_again_after_it_only_read(database: Database) -> None:
    assert await tenants(database) == []
    async with database.transaction() as session:
        session.add(tenant("acme"))
    assert await tenants(database) == ["acme"]


async def test_transactions_that_read_then_write_lose_no_update(database: Database) -> None:
    async def add_next() -> None:
        async with database.transaction() as session:
            if database.dialect == "postgresql":  # Where writers do not wait for each other.
                await session.execute(text("LOCK TABLE tenants IN EXCLUSIVE MODE"))
            count = await session.scalar(select(func.count()).select_from(TenantRow))
            session.add(tenant(f"t{count}"))

    await asyncio.gather(*(add_next() for _ in range(20)))
    assert len(await tenants(database)) == 20


def key(**values: object) -> ApiKey:
    row = {"id": "i" * 12, "tenant": "acme", "name": "n", "role": "admin", "last4": "last"}
    return ApiKey(**{**row, "digest": b"not-to-be-shown", "created_at": NOW, **values})


async def add(database: Database, *rows: Base) -> None:
    async with database.transaction() as session:
        session.add_all(rows)


async def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        await add(database, key(tenant="nobody"))


async def test_integrity_error_hides_what_was_written(database: Database) -> None:
    await add(database, tenant("acme"))
    with pytest.raises(IntegrityError, match="ck_api_keys_role") as raised:
        await add(database, key(role="owner"))
    assert "not-to-be-shown" not in str(raised.value)


async def test_time_keeps_its_instant_whatever_its_zone(database: Database) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    async with database.transaction() as session:
        session.add(TenantRow(name="acme", created_at=local))
    async with database.session() as session:
        found = await session.scalar(select(TenantRow.created_at))
    assert (found, found and found.tzinfo) == (NOW, UTC)


async def test_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        async with database.transaction() as session:
            session.add(TenantRow(name="acme", created_at=NOW.replace(tzinfo=None)))


SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


async def test_slow_statement_is_ended_at_its_deadline(database_url: str) -> None:
    database = Database.open(database_url, statement_timeout_s=0.2)
    with pytest.raises(DatabaseUnavailable):
        async with database.session() as session:
            await session.execute(text(SLOW[database.dialect]))
    assert await tenants(database) == []  # The connection, or a new one, is fine.
    await database.close()


async def test_database_that_refuses_is_unavailable() -> None:
    database = Database.open("postgresql://someone:hidden@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailable) as raised:
        await tenants(database)
    assert "hidden" not in str(raised.value)
    await database.close()


async def test_database_without_our_tables_is_unavailable(empty_url: str) -> None:
    database = Database.open(empty_url)
    with pytest.raises(DatabaseUnavailable, match="tenants"):
        await tenants(database)
    await database.close()


async def test_missing_postgresql_database_is_unavailable(postgres_url: str) -> None:
    database = Database.open(postgres_url + "_absent")
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        await tenants(database)
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://localhost/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///relative.db",
        "postgresql://h:port/x",
        "postgresql+psycopg://localhost/x",
    ],
)
def test_url_of_no_supported_database_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlInvalid):
        Database.open(url)


def test_url_that_is_refused_shows_no_password() -> None:
    with pytest.raises(DatabaseUrlInvalid) as raised:
        Database.open("postgresql://user:hidden@host:port/name")
    assert "hidden" not in str(raised.value)


async def test_sslmode_of_libpq_is_understood(postgres_url: str) -> None:
    database = Database.open(postgres_url + "?sslmode=disable")
    async with database.session() as session:
        assert await session.scalar(text("SELECT 1")) == 1
    await database.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ringfence.db"


async def test_sqlite_files_are_private(file: Path) -> None:
    before = os.umask(0)
    try:
        upgrade_url = f"sqlite:///{file}"
        await asyncio.to_thread(upgrade, upgrade_url)
        database = Database.open(upgrade_url)
        async with database.transaction() as session:
            session.add(tenant("acme"))
    finally:
        os.umask(before)
    modes = {path.name: mode(path) for path in file.parent.iterdir()}
    await database.close()
    assert modes == dict.fromkeys(("ringfence.db", "ringfence.db-wal", "ringfence.db-shm"), 0o600)
    assert mode(file.parent) == 0o700


def test_sqlite_file_that_others_could_read_becomes_private(file: Path) -> None:
    file.parent.mkdir(mode=0o755)
    file.touch(0o644)
    Database.open(f"sqlite:///{file}")
    assert (mode(file), mode(file.parent)) == (0o600, 0o755)


def test_sqlite_url_with_the_driver_named_is_the_same(file: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{file}")
    assert (database.dialect, file.exists()) == ("sqlite", True)


async def test_sqlite_runs_with_log_full_sync_and_timeout(file: Path) -> None:
    database = Database.open(f"sqlite:///{file}")
    async with database.session() as session:
        pragmas = ["journal_mode", "synchronous", "busy_timeout", "foreign_keys"]
        found = [await session.scalar(text(f"PRAGMA {name}")) for name in pragmas]
    await database.close()
    assert found == ["wal", 2, 30_000, 1]


async def test_sqlite_transaction_takes_the_write_lock_first(file: Path) -> None:
    database = Database.open(f"sqlite:///{file}")
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))
        other = sqlite3.connect(file, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
    await database.close()


async def test_sqlite_readers_do_not_wait_for_a_writer(file: Path) -> None:
    upgrade_url = f"sqlite:///{file}"
    await asyncio.to_thread(upgrade, upgrade_url)
    database = Database.open(upgrade_url)
    async with database.transaction() as session:
        session.add(tenant("acme"))
        await session.flush()
        assert await asyncio.wait_for(tenants(database), 20) == []
    await database.close()


def test_file_that_is_no_database_is_unavailable(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is text, not a database" * 100)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        Database.open(f"sqlite:///{file}")


def test_directory_in_the_files_place_is_unavailable(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(DatabaseUnavailable):
        Database.open(f"sqlite:///{file}")


async def test_cancelled_query_gives_its_connection_back(database_url: str) -> None:
    database = Database.open(database_url, statement_timeout_s=0.1)

    async def wait() -> None:
        async with database.session() as session:
            await session.execute(text(SLOW[database.dialect]))

    for _ in range(12):  # More than the pool holds.
        with suppress(TimeoutError, DatabaseUnavailable):
            await asyncio.wait_for(wait(), 0.05)
    assert await asyncio.wait_for(tenants(database), 30) == []
    await database.close()
