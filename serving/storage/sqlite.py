"""SQLite as we run it: a private file, write-ahead log, one writer at a time, deadlines.

Knows nothing of tables.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_S = 30.0
WRITES = "ringfence_writes"
"""Execution option of an engine: whether its transactions write."""

_RETRY_WAIT_S = 0.01
_DEADLINE = "statement_deadline"
_STEPS_BETWEEN_DEADLINE_CHECKS = 100_000  # About a millisecond of SQLite's virtual machine.


def prepare_file(path: Path) -> None:
    """Make the database file, or make it private: 0600, in a directory of 0700 if that is new.

    Blocks for up to `BUSY_TIMEOUT_S` when another process makes the same file just now.

    Raises:
        OSError: the file cannot be made, or is another user's.
        sqlite3.Error: the file is not a database, or stays locked.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        # By path: closing a descriptor of our own would drop SQLite's locks in this process
        # (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled).
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            with suppress(FileNotFoundError):
                if name.stat().st_mode & 0o077:
                    name.chmod(0o600)
    _enable_write_ahead_log(path)


def _enable_write_ahead_log(path: Path) -> None:
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                # The switch does not wait for a lock, whatever the busy timeout is.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(_RETRY_WAIT_S)
            else:
                return


class _StatementDeadline:
    """Aborts the running statement of one connection once its time is up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.restart()

    def restart(self) -> None:
        self._ends_at = time.monotonic() + self._timeout_s

    def passed(self) -> bool:
        return time.monotonic() > self._ends_at


def tune(engine: Engine, *, statement_timeout_s: float, enforce_foreign_keys: bool) -> None:
    """Set up every connection and transaction of `engine`.

    A transaction of an engine with the `WRITES` option takes the write lock when it begins, so
    that it never fails half-way; any other cannot write.
    """

    @event.listens_for(engine, "connect")
    def connect(dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        deadline = entry.info[_DEADLINE] = _StatementDeadline(statement_timeout_s)
        dbapi_connection.run_async(
            lambda driver: driver.set_progress_handler(
                deadline.passed, _STEPS_BETWEEN_DEADLINE_CHECKS
            )
        )
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA foreign_keys = {enforce_foreign_keys:d}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = bool(connection.get_execution_options().get(WRITES))
        if connection.info.get(WRITES) is not writes:
            connection.exec_driver_sql(f"PRAGMA query_only = {not writes:d}")
            connection.info[WRITES] = writes
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "before_cursor_execute")
    def before_execute(connection: Connection, _cursor: DBAPICursor, *_statement: object) -> None:
        connection.info[_DEADLINE].restart()
