"""The SQL database: SQLite for one machine, PostgreSQL for many, behind the same sessions.

Knows nothing of what is stored; tables are in `schema`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import asyncpg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from serving.storage import sqlite
from serving.storage.errors import DatabaseUnavailable, DatabaseUrlInvalid

Dialect = Literal["sqlite", "postgresql"]

STATEMENT_TIMEOUT_S = 10.0
POOL_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0

_POOL_SIZE = 5
_POOL_OVERFLOW = 5
_IDLE_IN_TRANSACTION_TIMEOUT_S = 60.0
_CLIENT_GRACE_S = 1.0  # The server ends a slow statement first, so that its error is exact.
_DRIVERS: dict[str, tuple[Dialect, str]] = {
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "sqlite+aiosqlite": ("sqlite", "sqlite+aiosqlite"),
    "postgres": ("postgresql", "postgresql+asyncpg"),
    "postgresql": ("postgresql", "postgresql+asyncpg"),
    "postgresql+asyncpg": ("postgresql", "postgresql+asyncpg"),
}


_SNAPSHOTS: dict[Dialect, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"},
}
"""Options that make a session see one state of the database from its first statement on."""


class Database:
    """A pool of connections to one database.

    Every wait is bounded: for a connection, for a lock and for a statement.
    """

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self._engine = engine
        self._name = engine.url.render_as_string(hide_password=True)
        self._readers = async_sessionmaker(
            engine.execution_options(**_SNAPSHOTS[dialect]), expire_on_commit=False
        )
        self._writers = async_sessionmaker(
            engine.execution_options(**{sqlite.WRITES: True}), expire_on_commit=False
        )

    @classmethod
    def open(
        cls,
        url: str,
        *,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        enforce_foreign_keys: bool = True,
    ) -> Self:
        """Open `sqlite:////absolute/path` or `postgresql://...`; PostgreSQL connects on first use.

        `enforce_foreign_keys` is for SQLite only, where rebuilding a table needs it off.

        Raises:
            DatabaseUrlInvalid: neither of the two, or a relative path.
            DatabaseUnavailable: the SQLite file cannot be opened.
        """
        parsed, dialect = _parse(url)
        if dialect == "postgresql":
            return cls(_postgresql_engine(parsed, statement_timeout_s), dialect)
        with _unavailable(parsed.render_as_string()):
            sqlite.prepare_file(Path(parsed.database or ""))
        engine = create_async_engine(
            parsed,
            # Without an isolation level the driver leaves BEGIN to us; see `sqlite.tune`.
            connect_args={"timeout": sqlite.BUSY_TIMEOUT_S, "isolation_level": None},
            **_pool_arguments(),
        )
        sqlite.tune(
            engine.sync_engine,
            statement_timeout_s=statement_timeout_s,
            enforce_foreign_keys=enforce_foreign_keys,
        )
        return cls(engine, dialect)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Read one consistent snapshot; writing fails.

        Raises:
            DatabaseUnavailable: unreachable, locked or too slow; inside the block too.
        """
        with _unavailable(self._name):
            async with self._readers() as session:
                yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession]:
        """Write; committed when the block ends, rolled back when it raises.

        Raises:
            DatabaseUnavailable: unreachable, locked or too slow; inside the block too.
        """
        with _unavailable(self._name):
            async with self._writers() as session, session.begin():
                yield session

    async def close(self) -> None:
        """Close every idle connection; one in use closes when it is given back."""
        await self._engine.dispose()


def _parse(url: str) -> tuple[URL, Dialect]:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUrlInvalid(
            "the database URL cannot be read; write sqlite:////absolute/path.db or "
            "postgresql://user:password@host/name"
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise DatabaseUrlInvalid(
            f"{parsed.drivername!r} is not a supported database; use 'sqlite' or 'postgresql'"
        )
    dialect, driver = _DRIVERS[parsed.drivername]
    parsed = parsed.set(drivername=driver)
    if dialect == "sqlite" and not Path(parsed.database or "").is_absolute():
        raise DatabaseUrlInvalid(
            f"SQLite's path must be absolute, not {parsed.database!r}; it takes four slashes: "
            "sqlite:////var/lib/ringfence.db"
        )
    if "sslmode" in parsed.query:  # libpq's name; asyncpg knows the same values as `ssl`.
        mode = parsed.query["sslmode"]
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return parsed, dialect


def _postgresql_engine(url: URL, statement_timeout_s: float) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_pre_ping=True,  # A restarted server costs no request.
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": statement_timeout_s + _CLIENT_GRACE_S,
            "server_settings": {
                "application_name": "ringfence",
                "statement_timeout": str(int(statement_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": str(
                    int(_IDLE_IN_TRANSACTION_TIMEOUT_S * 1000)
                ),
            },
        },
        **_pool_arguments(),
    )


def _pool_arguments() -> dict[str, Any]:
    return {
        "pool_size": _POOL_SIZE,
        "max_overflow": _POOL_OVERFLOW,
        "pool_timeout": POOL_TIMEOUT_S,
        "hide_parameters": True,  # Digests and names stay out of errors and logs.
    }


@contextmanager
def _unavailable(name: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # The caller's to explain.
    except (
        DBAPIError,
        PoolTimeoutError,
        OSError,
        sqlite3.Error,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = str(cause).partition("\n")[0] or type(cause).__name__
        raise DatabaseUnavailable(f"the database {name} is unavailable: {reason}") from error
