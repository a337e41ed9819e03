"""Fixtures: an empty database of each kind, and the same with our tables.

PostgreSQL is the server of TEST_POSTGRES_URL, or the one on this machine; its own database is made
and dropped.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from serving.storage.database import Database
from serving.storage.migrate import upgrade

__all__ = ["database", "database_url", "empty_url", "migrated_url", "postgres_url"]

LOCAL_POSTGRES = "postgresql://postgres@127.0.0.1:5432/test"


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
    """A database with our tables, for all tests of a module."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('migrated')}/ringfence.db"
    else:
        url = request.getfixturevalue("postgres_url")
        on_postgres(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    upgrade(url)
    return url


@pytest.fixture
def database_url(empty_url: str) -> str:
    upgrade(empty_url)
    return empty_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database.open(database_url)
    yield opened
    await opened.close()
