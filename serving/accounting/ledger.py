"""The usage ledger: one row for every attempt, in SQL.

Rows are settled into a stream in Valkey, in the same step as the money, and moved from there into
SQL in batches: a gateway may die, and Valkey or the database restart, and each row arrives once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
from sqlalchemy import ColumnElement, Executable, case, func, or_, select

from models.background import BackgroundLoop
from serving.accounting.attempt import LOST
from serving.accounting.usage import AttemptRecord, Dimension, UsageRow
from serving.storage.database import Database, Dialect
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable
from serving.storage.leftovers import NOWHERE, THREADS, Leftover, Leftovers, lines_of
from serving.storage.schema import UsageAttempt
from serving.storage.upsert import insert
from serving.storage.valkey import Valkey

logger = logging.getLogger("ringfence.accounting")

BATCH = 500
CLOSE_WAIT_S = 3.0
"""Time that a gateway which stops has to move its rows into SQL."""

EMPTY_WAIT_S = 20.0
"""Time to move the last rows when every gateway has stopped."""

DRAIN_S = 1.0
"""How often rows are moved into SQL. A report moves them first, so it is never behind."""

UNSETTLED_S = 3600.0
"""Age from which an unsettled row counts in budgets: its gateway may be gone for good."""

_TURN_MS = 3000
"""How long one gateway moves rows alone; several would do the same work twice."""

_OUTBOX = "outbox"
_DRAINER = "drainer"
_TOLD = [name for name in UsageAttempt.__table__.columns.keys() if name != "settled"]  # noqa: SIM118
_SHOWN = [field.name for field in fields(AttemptRecord)]
_COLUMNS: dict[Dimension, Any] = {
    "day": UsageAttempt.day,
    "key": UsageAttempt.key_id,
    "tenant": UsageAttempt.tenant,
    "model": UsageAttempt.model,
}


class Ledger:
    """The ledger of one database, and its stream in Valkey.

    Args:
        database: holds the rows for good.
        valkey: where gateways settle.
        prefix: of the stream's key.
        leftovers: keeps what a stop cannot write.
        unsettled: rows that this gateway could not settle while Valkey is away.
    """

    def __init__(
        self,
        database: Database,
        valkey: Valkey,
        *,
        prefix: str,
        leftovers: Leftovers = NOWHERE,
        unsettled: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._database = database
        self._insert = _into(database.dialect)
        self._valkey = valkey
        self._prefix = prefix
        self._outbox = prefix + _OUTBOX
        self._drainer = prefix + _DRAINER
        self._leftovers = leftovers
        self._resumed = False
        self._unsettled = unsettled
        self._name = uuid4().hex
        self.loop = BackgroundLoop("usage_ledger", self._move, every_s=DRAIN_S)

    def start(self) -> None:
        """Begin to move rows."""
        self.loop.start()

    async def close(self) -> list[Leftover]:
        """Move the last rows, and write those that will not be settled any more.

        Rows that stay in Valkey are moved by another gateway, or by `empty`.

        Returns:
            What could not be written.
        """
        await self.loop.close(timeout_s=CLOSE_WAIT_S)
        with suppress(ValkeyUnavailable, DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self.drain()
        return await self._write_or_keep(self._unsettled())

    async def empty(self) -> list[Leftover]:
        """Leave no row in Valkey, which may be stopped next; what could not be written.

        Raises:
            ValkeyUnavailable: what it has is not known.
        """
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(EMPTY_WAIT_S):
                await self.drain()
                return []
        rows = await waiting_rows(self._valkey, self._prefix)
        return await THREADS.run(self._leftovers.keep, rows)

    async def drain(self) -> int:
        """Move every row that Valkey has by now; how many.

        Raises:
            ValkeyUnavailable, DatabaseUnavailable: some may be left; nothing is lost.
        """
        moved = 0
        await self._resume()
        newest = await self._valkey.command("XREVRANGE", self._outbox, "+", "-", "COUNT", 1)
        last = newest[0][0] if newest else None
        while last is not None:
            entries = await self._valkey.command("XRANGE", self._outbox, "-", last, "COUNT", BATCH)
            if not entries:
                break
            await self._write([row for _, fields in entries for row in fields.values()])
            await self._valkey.command("XDEL", self._outbox, *(number for number, _ in entries))
            moved += len(entries)
        return moved

    async def spent_nanos(self, subject: str, since: date | None) -> int:
        """Return what `key:<id>` or `tenant:<name>` has spent since that day, or ever.

        Without what its gateway is still to settle: that is added to the sum when it is.
        """
        await self.drain()
        kind, _, name = subject.partition(":")
        column = UsageAttempt.key_id if kind == "key" else UsageAttempt.tenant
        given_up = datetime.now(UTC) - timedelta(seconds=UNSETTLED_S)
        query = select(func.coalesce(func.sum(UsageAttempt.cost_nanos), 0)).where(
            column == name, or_(UsageAttempt.settled, UsageAttempt.started_at < given_up)
        )
        if since is not None:
            query = query.where(UsageAttempt.day >= since.isoformat())
        async with self._database.session() as session:
            return int(await session.scalar(query) or 0)

    async def attempts_of(self, tenant: str, request_id: str) -> Sequence[AttemptRecord]:
        """See `AttemptHistory`. Up to date unless Valkey is away."""
        with suppress(ValkeyUnavailable):
            await self.drain()
        query = (
            select(*(getattr(UsageAttempt, name) for name in _SHOWN))
            .where(UsageAttempt.request_id == request_id, UsageAttempt.tenant == tenant)
            .order_by(UsageAttempt.started_at)
        )
        async with self._database.session() as session:
            return [AttemptRecord(*row) for row in await session.execute(query)]

    async def report(
        self,
        *,
        group_by: Sequence[Dimension],
        since: date | None = None,
        until: date | None = None,
        tenant: str | None = None,
        key_id: str | None = None,
        model: str | None = None,
    ) -> Sequence[UsageRow]:
        """Sums over attempts, both days included, by what they are grouped by and in its order.

        Up to date with everything that clients were told, unless Valkey is away.
        """
        with suppress(ValkeyUnavailable):
            await self.drain()
        columns = [_COLUMNS[dimension] for dimension in group_by]
        query = select(*columns, *_sums()).group_by(*columns).order_by(*columns)
        bounds = (
            (UsageAttempt.day >= since.isoformat()) if since else None,
            (UsageAttempt.day <= until.isoformat()) if until else None,
            (UsageAttempt.tenant == tenant) if tenant else None,
            (UsageAttempt.key_id == key_id) if key_id else None,
            (UsageAttempt.model == model) if model else None,
        )
        query = query.where(*(bound for bound in bounds if bound is not None))
        async with self._database.session() as session:
            rows = (await session.execute(query)).all()
        width = len(columns)
        return [
            _usage(dict(zip(group_by, row[:width], strict=True)), row[width:])
            for row in rows
            if row[width]  # Without a group there is a row of sums over nothing.
        ]

    async def _resume(self) -> None:
        """Write what an earlier stop could not."""
        if self._resumed:
            return
        for file in await THREADS.run(self._leftovers.files):
            try:
                await self._write(await THREADS.run(lines_of, file))
                file.unlink(missing_ok=True)
            except OSError as error:
                logger.error("kept rows cannot be read: %s", error.strerror)  # noqa: TRY400
        self._resumed = True

    async def _write_or_keep(self, rows: Sequence[str]) -> list[Leftover]:
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._write(rows)
                return []
        return await THREADS.run(self._leftovers.keep, rows)

    async def _move(self) -> None:
        try:
            if await self._my_turn():
                await self.drain()
        except ValkeyUnavailable:
            await self._write(self._unsettled(), settled=False)
            raise

    async def _my_turn(self) -> bool:
        taken = await self._valkey.command("SET", self._drainer, self._name, "NX", "PX", _TURN_MS)
        if taken:
            return True
        return bool(await self._valkey.command("GET", self._drainer) == self._name.encode())

    async def _write(self, rows: Sequence[bytes | str], *, settled: bool = True) -> None:
        """Write each row once, even if it comes again. A row believed lost may still arrive."""
        for start in range(0, len(rows), BATCH):
            values: dict[str, dict[str, Any]] = {}
            for row in filter(None, map(_parsed, rows[start : start + BATCH])):
                if row["outcome"] != LOST or row["id"] not in values:
                    values[row["id"]] = row | {"settled": settled}
            if values:
                async with self._database.transaction() as session:
                    await session.execute(self._insert, list(values.values()))


async def waiting_rows(valkey: Valkey, prefix: str) -> list[str]:
    """Every row that waits in Valkey to be moved.

    Raises:
        ValkeyUnavailable: they cannot be read now.
    """
    rows: list[str] = []
    after = "-"
    while entries := await valkey.command("XRANGE", prefix + _OUTBOX, after, "+", "COUNT", BATCH):
        rows += [row.decode() for _, content in entries for row in content.values()]
        after = f"({entries[-1][0].decode()}"
    return rows


def _into(dialect: Dialect) -> Executable:
    new = insert(dialect, UsageAttempt)
    columns = [column.name for column in UsageAttempt.__table__.columns if column.name != "id"]
    statement: Executable = new.on_conflict_do_update(
        index_elements=[UsageAttempt.id],
        set_={name: new.excluded[name] for name in columns},
        where=(new.excluded.outcome != LOST)
        & ((UsageAttempt.outcome == LOST) | (~UsageAttempt.settled & new.excluded.settled)),
    )
    return statement


def _parsed(row: bytes | str) -> dict[str, Any] | None:
    """Read a row's columns. Returns None for a broken row, so that the others reach SQL."""
    try:
        told = {"receipt": None} | orjson.loads(row)  # Rows of the version before have none.
        parsed = {name: told[name] for name in _TOLD}
        parsed["started_at"] = datetime.fromisoformat(parsed["started_at"])
    except (ValueError, KeyError, TypeError) as error:
        logger.error("a row of the ledger cannot be read: %s", type(error).__name__)  # noqa: TRY400
        return None
    return parsed


def _usage(group: Mapping[Dimension, str], sums: Sequence[Any]) -> UsageRow:
    requests, failed, prompt, cached, completion, cost = map(int, sums[:-1])  # Decimals elsewhere.
    return UsageRow(group, requests, failed, prompt, cached, completion, cost, float(sums[-1]))


def _sums() -> Sequence[ColumnElement[Any]]:
    failed = case((UsageAttempt.outcome == "ok", 0), else_=1)
    return (
        func.count(),
        func.coalesce(func.sum(failed), 0),
        *(
            func.coalesce(func.sum(column), 0)
            for column in (
                UsageAttempt.prompt_tokens,
                UsageAttempt.cached_tokens,
                UsageAttempt.completion_tokens,
                UsageAttempt.cost_nanos,
                UsageAttempt.duration_ms,
            )
        ),
    )
