import asyncio
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from serving.storage import migrate
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable, MigrationFailed
from serving.storage.migrate import upgrade
from serving.storage.schema import METADATA

ROOT = Path(__file__).parents[3]
HEAD = "0007"


async def read(url: str, statement: str) -> list[tuple[object, ...]]:
    database = Database.open(url)
    try:
        async with database.session() as session:
            return [tuple(row) for row in await session.execute(text(statement))]
    finally:
        await database.close()


async def test_models_and_migrations_agree(database: Database) -> None:
    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, METADATA)

    async with database.session() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []


async def test_upgrade_twice_keeps_what_is_there(database: Database, database_url: str) -> None:
    async with database.transaction() as session:
        await session.execute(
            text("INSERT INTO tenants (name, created_at) VALUES ('acme', '2026-01-01 00:00:00')")
        )
    await asyncio.to_thread(upgrade, database_url)
    assert await read(database_url, "SELECT name FROM tenants") == [("acme",)]


INDEXES = {
    "sqlite": "SELECT sql FROM sqlite_master WHERE name = 'uq_api_keys_live_name'",
    "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_api_keys_live_name'",
}


async def test_names_are_unique_among_live_keys_only(database: Database) -> None:
    # Alembic's comparison does not look at the condition of an index.
    async with database.session() as session:
        index = await session.scalar(text(INDEXES[database.dialect])) or ""
    assert ("UNIQUE" in index, "revoked_at IS NULL" in index) == (True, True)


def test_upgrades_from_zero_in_one_process_do_not_collide(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(upgrade, [empty_url] * 4))
    assert done == [None] * 4
    assert asyncio.run(read(empty_url, "SELECT version_num FROM alembic_version")) == [(HEAD,)]


def test_upgrades_from_zero_by_processes_do_not_collide(empty_url: str) -> None:
    code = f"from serving.storage.migrate import upgrade; upgrade({empty_url!r})"
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code], cwd=ROOT, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
    assert ended == [(b"", 0)] * 3
    assert asyncio.run(read(empty_url, "SELECT version_num FROM alembic_version")) == [(HEAD,)]


async def test_upgrade_waits_for_one_that_runs(empty_url: str) -> None:
    database = Database.open(empty_url)
    lock = "SELECT pg_advisory_xact_lock(:key)"
    async with database.transaction() as session:
        if database.dialect == "postgresql":
            await session.execute(text(lock), {"key": migrate._ADVISORY_LOCK})
        else:
            await session.execute(text("SELECT 1"))  # A writer holds the lock from its first word.
        upgrading = asyncio.create_task(asyncio.to_thread(upgrade, empty_url))
        done, _ = await asyncio.wait({upgrading}, timeout=0.5)
        assert not done
    await upgrading
    await database.close()
    assert await read(empty_url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_database_of_a_newer_version_is_refused_unchanged(database_url: str) -> None:
    async def pretend() -> None:
        database = Database.open(database_url)
        async with database.transaction() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await database.close()

    asyncio.run(pretend())
    with pytest.raises(MigrationFailed, match="newer version"):
        upgrade(database_url)
    assert asyncio.run(read(database_url, "SELECT version_num FROM alembic_version")) == [("9999",)]


def test_failed_upgrade_leaves_no_table(empty_url: str) -> None:
    async def occupy() -> None:
        database = Database.open(empty_url)
        async with database.transaction() as session:
            await session.execute(text("CREATE TABLE api_keys (id INTEGER)"))
        await database.close()

    asyncio.run(occupy())
    with pytest.raises(DatabaseUnavailable, match="already exists"):
        upgrade(empty_url)
    with pytest.raises(DatabaseUnavailable, match="tenants"):
        asyncio.run(read(empty_url, "SELECT * FROM tenants"))


def test_newest_database_is_told_without_alembic(database_url: str) -> None:
    code = (
        f"import sys; from serving.storage.migrate import upgrade; upgrade({database_url!r});"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "False\n")


def test_row_that_points_at_nothing_fails_the_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/ringfence.db"
    upgrade(url)
    raw = sqlite3.connect(tmp_path / "ringfence.db")
    raw.execute(
        "INSERT INTO api_keys (id, digest, tenant, name, role, last4, created_at) "
        "VALUES ('i', x'00', 'nobody', 'n', 'admin', 'abcd', '2026-01-01 00:00:00')"
    )
    raw.commit()
    raw.close()
    monkeypatch.setattr(migrate, "_is_newest", lambda _connection: False)
    with pytest.raises(MigrationFailed, match="api_keys"):
        upgrade(url)
