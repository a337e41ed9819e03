"""Fixtures: an empty database of each kind, and the same with our tables.

PostgreSQL is the server of TEST_POSTGRES_URL, or the one on this machine; its own database is made
and dropped.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import asyncpg
import pytest

from serving.storage import migrate
from serving.storage.database import Database
from serving.storage.migrate import upgrade
from serving.storage.schema import METADATA

__all__ = ["database", "database_url", "empty_url", "migrated_url", "postgres_url"]

VERSION = "SELECT version_num FROM alembic_version"
VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"
NEWEST = max(path.name for path in VERSIONS.glob("[0-9]*.py"))[:4]
LOCAL_POSTGRES = "postgresql://postgres@127.0.0.1:5432/test"

EMPTY = "; ".join(
    (
        "SET synchronous_commit = off",
        *(str(table.delete()) for table in reversed(METADATA.sorted_tables)),
        "SELECT setval(format('%I', sequencename), 1, false) FROM pg_sequences",
    )
)
"""A tenth of what TRUNCATE takes: the tables have few rows, and it would make new files."""


def on_postgres(url: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    given = os.environ.get("TEST_POSTGRES_URL")
    server, name = given or LOCAL_POSTGRES, f"ringfence_test_{secrets.token_hex(6)}"
    try:
        on_postgres(server, f"CREATE DATABASE {name}")
    except OSError as error:
        if given:
            raise
        pytest.skip(f"PostgreSQL does not answer at {server}: {error}")
    yield server.rpartition("/")[0] + "/" + name
    on_postgres(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/ringfence.db"
    url: str = request.getfixturevalue("postgres_url")
    on_postgres(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with our tables, shared by all tests of a module."""
    return migrated(request, tmp_path_factory.mktemp("migrated"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with our tables, all of them empty."""
    return migrated(request, tmp_path)


def migrated(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        file = folder / "state" / "ringfence.db"
        file.parent.mkdir(mode=0o700)
        file.touch(0o600)
        file.write_bytes(migrated_file())
        return f"sqlite:///{file}"
    url: str = request.getfixturevalue("postgres_url")
    if not asyncio.run(emptied(url)):
        on_postgres(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        upgrade(url)
    return url


@cache
def migrated_file() -> bytes:
    """A migrated SQLite database; copying it is faster than migrating."""
    with tempfile.TemporaryDirectory() as folder:
        upgrade(f"sqlite:///{folder}/ringfence.db")
        return Path(folder, "ringfence.db").read_bytes()


async def emptied(url: str) -> bool:
    """Empty the tables of a PostgreSQL database; return whether it has all of ours."""
    connection = await asyncpg.connect(url, timeout=5)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found, ours = {str(row[0]) for row in rows}, set(METADATA.tables)
        if not ours < found or await connection.fetchval(VERSION) != NEWEST:
            return False
        if others := found - ours - {"alembic_version"}:
            await connection.execute(f"DROP TABLE {', '.join(others)} CASCADE")
        await connection.execute(EMPTY)
    finally:
        await connection.close()
    return True


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database.open(database_url)
    yield opened
    await opened.close()
