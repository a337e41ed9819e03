"""Brings a database to the tables of this version.

One transaction per upgrade, so that a failed one changes nothing.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession

from serving.storage.database import Database
from serving.storage.errors import MigrationFailed

MIGRATION_TIMEOUT_S = 300.0
"""Deadline of one statement, and of the wait for another process that migrates."""

_SCRIPTS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x52494E47  # Any number that no other user of the same database takes.
_alembic_in_use = threading.Lock()  # Its `context` and `op` are globals of the process.


def upgrade(url: str) -> None:
    """Upgrade the database at `url` to the newest tables; does nothing when it has them.

    Processes that start at once wait for each other: on SQLite's write lock, on an advisory lock
    of PostgreSQL. Blocks; a coroutine calls it through `asyncio.to_thread`.

    Raises:
        DatabaseUrlInvalid, DatabaseUnavailable: as `Database` does.
        MigrationFailed: the database is newer than this version, or a foreign key would break.
    """
    with _alembic_in_use:
        asyncio.run(_upgrade(url))


async def _upgrade(url: str) -> None:
    database = Database.open(
        url, statement_timeout_s=MIGRATION_TIMEOUT_S, enforce_foreign_keys=False
    )
    try:
        async with database.session() as session:
            if await (await session.connection()).run_sync(_is_newest):
                return
        async with database.transaction() as session:
            if database.dialect == "postgresql":
                await session.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                )
            connection = await session.connection()
            await connection.run_sync(_run_scripts)
            if database.dialect == "sqlite":
                await _check_foreign_keys(session)
    finally:
        await database.close()


def _is_newest(connection: Connection) -> bool:
    """Return whether the database is current, without loading Alembic into every process."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    newest = max(path.name for path in (_SCRIPTS / "versions").glob("[0-9]*.py"))
    version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version is not None and newest.startswith(f"{version}_")


def _run_scripts(connection: Connection) -> None:
    # Here, as most processes find nothing to do.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise MigrationFailed(
            f"the database was made by a newer version of Ringfence ({error}); upgrade this "
            "installation, or use another database"
        ) from error


async def _check_foreign_keys(session: AsyncSession) -> None:
    broken = (await session.execute(text("PRAGMA foreign_key_check"))).first()
    if broken is not None:
        raise MigrationFailed(
            f"a migration would leave a row of {broken.table!r} pointing at nothing; nothing was "
            "changed: restore the database from a backup"
        )
