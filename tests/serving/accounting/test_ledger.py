"""The usage ledger: each row arrives exactly once, whatever crashes or is unavailable."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import create_async_engine

from models.engine import Usage
from serving.accounting import ledger as accounting
from serving.accounting.attempt import LOST, Attempt
from serving.accounting.ledger import BATCH, UNSETTLED_S, Ledger
from serving.accounting.usage import DIMENSIONS, Dimension
from serving.admission.demand import Budget, Demand, Settlement
from serving.admission.reservations import Reservations
from serving.storage import sqlite
from serving.storage.database import Database
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable
from serving.storage.leftovers import Leftover, Leftovers
from serving.storage.migrate import upgrade
from serving.storage.schema import UsageAttempt
from serving.storage.valkey import Valkey
from tests.serving.live import eventually
from tests.serving.storage.databases import migrated_url, postgres_url
from tests.serving.valkeys import initialise

__all__ = ["migrated_url", "postgres_url"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UNREACHABLE = "redis://127.0.0.1:1"
_ADD = """
local outbox = ARGV[1]
for i = 2, #ARGV do redis.call('XADD', outbox, '*', 'row', ARGV[i]) end
"""
_numbers = itertools.count()


def attempt(**fields: Any) -> Attempt:
    given: dict[str, Any] = {
        "id": f"a{next(_numbers)}",
        "request_id": "req_1",
        "tenant": "acme",
        "key_id": "k1",
        "model": "m",
        "endpoint": "chat",
        "started_at": NOON,
    }
    return Attempt(**given | fields)


def ended(one: Attempt, *, cost: int = 7, outcome: str = "ok") -> str:
    return one.row(outcome=outcome, usage=Usage(5, 3, 2), duration_s=0.5, cost_nanos=cost)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    opened = Database.open(migrated_url)
    async with opened.transaction() as session:
        await session.execute(delete(UsageAttempt))
    yield opened
    await opened.close()


@pytest.fixture
async def near(embedded_valkey_url: str) -> AsyncIterator[Valkey]:
    """The embedded Valkey, for tests that do not depend on the server."""
    opened = Valkey.open(embedded_valkey_url, timeout_s=5.0)
    yield opened
    await opened.close()


async def put(valkey: Valkey, prefix: str, *rows: str) -> None:
    """Put a row into Valkey as a settlement does."""
    await valkey.run(_ADD, f"{prefix}outbox", *rows)


async def left(valkey: Valkey, prefix: str) -> int:
    count: int = await valkey.command("XLEN", f"{prefix}outbox")
    return count


async def written(database: Database) -> list[tuple[str, str, int]]:
    """Return id, outcome and cost of each row, ordered by id."""
    async with database.session() as session:
        rows = await session.scalars(select(UsageAttempt).order_by(UsageAttempt.id))
        return [(row.id, row.outcome, row.cost_nanos) for row in rows]


async def arrives(database: Database, *expected: tuple[str, str, int]) -> bool:
    async with asyncio.timeout(30):
        while await written(database) != sorted(expected):  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.02)
    return True


async def test_row_arrives_as_it_was_settled(
    database: Database, valkey: Valkey, valkey_prefix: str
) -> None:
    one = attempt(started_at=datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC))
    row = one.row(
        outcome="ok",
        usage=Usage(2**40, 3, 2),
        duration_s=1.25,
        ttft_s=0.5,
        cost_nanos=2**53 - 1,
        estimated=True,
    )
    await put(valkey, valkey_prefix, row)
    assert await Ledger(database, valkey, prefix=valkey_prefix).drain() == 1
    async with database.session() as session:
        found = (await session.scalars(select(UsageAttempt))).one()
    names = [column.name for column in UsageAttempt.__table__.columns]
    told = {name: getattr(found, name) for name in names}
    assert told == orjson.loads(row) | {"started_at": one.started_at, "settled": True}


async def test_more_rows_than_a_batch_are_moved_by_several_ledgers_at_once(
    database: Database, valkey: Valkey, valkey_prefix: str
) -> None:
    attempts = [attempt() for _ in range(2 * BATCH + 7)]
    rows = [ended(one) for one in attempts]
    await put(valkey, valkey_prefix, *rows, *rows[:50])
    ledgers = [Ledger(database, valkey, prefix=valkey_prefix) for _ in range(3)]
    await asyncio.gather(*(ledger.drain() for ledger in ledgers))
    assert await written(database) == sorted((one.id, "ok", 7) for one in attempts)
    assert await left(valkey, valkey_prefix) == 0


async def test_row_that_comes_again_changes_nothing(
    database: Database, valkey: Valkey, valkey_prefix: str
) -> None:
    ledger, one = Ledger(database, valkey, prefix=valkey_prefix), attempt()
    for cost in (7, 9):
        await put(valkey, valkey_prefix, ended(one, cost=cost))
        await ledger.drain()
    assert await written(database) == [(one.id, "ok", 7)]


async def test_lost_attempt_that_ended_after_all_is_what_it_was(
    database: Database, valkey: Valkey, valkey_prefix: str
) -> None:
    ledger, one = Ledger(database, valkey, prefix=valkey_prefix), attempt()
    told = []
    for row in (one.lost(), ended(one, cost=7), one.lost()):
        await put(valkey, valkey_prefix, row)
        await ledger.drain()
        told += await written(database)
    assert told == [(one.id, LOST, 0), (one.id, "ok", 7), (one.id, "ok", 7)]


async def test_lost_row_takes_no_real_one_s_place_within_a_batch(
    database: Database, near: Valkey, valkey_prefix: str
) -> None:
    one = attempt()
    await put(near, valkey_prefix, ended(one, cost=7), one.lost())
    await Ledger(database, near, prefix=valkey_prefix).drain()
    assert await written(database) == [(one.id, "ok", 7)]


ARRIVALS = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=5).map(
        # Within a batch a lost row is the earlier one; see the test above.
        lambda rows: sorted(rows, key=lambda row: not row[1])
    ),
    max_size=5,
)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ARRIVALS)
async def test_each_attempt_has_its_real_row_if_that_came_or_else_a_lost_one(
    database: Database, near: Valkey, arrivals: list[list[tuple[int, bool]]]
) -> None:
    prefix = f"{{test-{secrets.token_hex(6)}}}"
    ledger, attempts = Ledger(database, near, prefix=prefix), [attempt() for _ in range(4)]
    for batch in arrivals:
        rows = [
            attempts[number].lost() if lost else ended(attempts[number]) for number, lost in batch
        ]
        if rows:
            await put(near, prefix, *rows)
        await ledger.drain()
    came = {row for batch in arrivals for row in batch}
    expected = {
        one.id: (one.id, "ok", 7) if (number, False) in came else (one.id, LOST, 0)
        for number, one in enumerate(attempts)
        if {(number, False), (number, True)} & came
    }
    found = {row[0]: row for row in await written(database)}
    assert {one.id: found[one.id] for one in attempts if one.id in found} == expected


@contextmanager
def held_for_writing(path: Path) -> Iterator[None]:
    """Lock an SQLite file against other writers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with our tables, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "ringfence.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def impatient(empty_file: Path, tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite in `tmp_path` with our settings, except for the wait for a lock."""
    path = shutil.copy(empty_file, tmp_path / "ringfence.db")
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.1, "isolation_level": None}
    )
    sqlite.tune(engine.sync_engine, statement_timeout_s=5.0, enforce_foreign_keys=True)
    opened = Database(engine, "sqlite")
    yield opened
    await opened.close()


async def test_rows_wait_in_valkey_while_the_database_is_locked(
    impatient: Database, tmp_path: Path, valkey: Valkey, valkey_prefix: str
) -> None:
    ledger, one = Ledger(impatient, valkey, prefix=valkey_prefix), attempt()
    await put(valkey, valkey_prefix, ended(one))
    with held_for_writing(tmp_path / "ringfence.db"), pytest.raises(DatabaseUnavailable):
        await ledger.drain()
    assert (await left(valkey, valkey_prefix), await written(impatient)) == (1, [])
    assert await ledger.drain() == 1
    assert await written(impatient) == [(one.id, "ok", 7)]


async def test_moving_goes_on_after_the_database_was_locked(
    impatient: Database,
    tmp_path: Path,
    near: Valkey,
    valkey_prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger, one = Ledger(impatient, near, prefix=valkey_prefix), attempt()
    await put(near, valkey_prefix, ended(one))
    ledger.start()
    with held_for_writing(tmp_path / "ringfence.db"):
        assert await eventually(
            lambda: "usage_ledger failed, and goes on: DatabaseUnavailable" in caplog.text
        )
    assert await arrives(impatient, (one.id, "ok", 7))
    await ledger.close()


async def terminate_others(connection: asyncpg.Connection[Any]) -> int:
    """Terminate all other connections to this database; return their number."""
    ended_ones = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return len(ended_ones)


@pytest.fixture
async def aside(database: Database, migrated_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a separate connection to PostgreSQL."""
    if database.dialect != "postgresql":
        pytest.skip("only PostgreSQL has connections that break")
    connection = await asyncpg.connect(migrated_url)
    yield connection
    await connection.close()


async def test_rows_arrive_once_though_postgresql_restarts_in_mid_drain(
    database: Database, aside: asyncpg.Connection[Any], valkey: Valkey, valkey_prefix: str
) -> None:
    attempts = [attempt() for _ in range(BATCH + 7)]
    await put(valkey, valkey_prefix, *map(ended, attempts))
    ledger = Ledger(database, valkey, prefix=valkey_prefix)
    async with aside.transaction():
        await aside.execute("LOCK TABLE usage_attempts IN EXCLUSIVE MODE")
        draining = asyncio.create_task(ledger.drain())
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await aside.fetchval(waits):  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.01)
        assert await terminate_others(aside) > 0
        with pytest.raises(DatabaseUnavailable):
            await draining
    assert await left(valkey, valkey_prefix) == len(attempts)
    assert await ledger.drain() == len(attempts)
    assert await written(database) == sorted((one.id, "ok", 7) for one in attempts)


async def test_connections_that_broke_while_idle_cost_no_drain(
    database: Database, aside: asyncpg.Connection[Any], near: Valkey, valkey_prefix: str
) -> None:
    ledger, attempts = Ledger(database, near, prefix=valkey_prefix), [attempt(), attempt()]
    await put(near, valkey_prefix, ended(attempts[0]))
    await ledger.drain()
    assert await terminate_others(aside) > 0
    await put(near, valkey_prefix, ended(attempts[1]))
    assert await ledger.drain() == 1
    assert await written(database) == [(one.id, "ok", 7) for one in attempts]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    embedded = EmbeddedValkey(tmp_path)
    embedded.ensure()
    yield embedded
    embedded.stop()


async def test_rows_are_written_while_valkey_is_away_and_not_again_when_it_is_back(
    database: Database, server: EmbeddedValkey
) -> None:
    valkey = Valkey.open(server.url)
    reservations = Reservations(valkey, prefix="{p}:", heartbeat_s=0.05)
    ledger = Ledger(database, valkey, prefix="{p}:", unsettled=reservations.unsettled_rows)
    one = attempt()
    demand = Demand(one.id, 0, 0, [], [], [], one.lost())
    reservations.start()
    ledger.start()
    reservations.hold(demand)
    server.stop()
    with pytest.raises(ValkeyUnavailable):
        await reservations.settle(demand, Settlement(8, 7, ended(one)))
    assert await arrives(database, (one.id, "ok", 7))
    server.ensure()
    assert await eventually(lambda: reservations.unsettled == 0)
    assert await drained(ledger) == 1
    assert await written(database) == [(one.id, "ok", 7)]
    (told,) = await ledger.report(group_by=[])
    assert (told.requests, told.cost_nanos) == (1, 7)
    await reservations.close()
    await ledger.close()
    await valkey.close()


async def drained(ledger: Ledger) -> int:
    """Return how many rows a drain moves once Valkey is ready."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await ledger.drain()
            except ValkeyUnavailable:
                await asyncio.sleep(0.05)


class Cut(Valkey):
    """A Valkey that one gateway cannot reach for a while."""

    cut = False

    async def run(self, script: str, *args: bytes | str | int) -> Any:
        self._fail_if_cut()
        return await super().run(script, *args)

    async def command(self, *words: bytes | str | float) -> Any:
        self._fail_if_cut()
        return await super().command(*words)

    def _fail_if_cut(self) -> None:
        if self.cut:
            raise ValkeyUnavailable("cut off")


async def test_row_written_while_valkey_was_away_is_not_added_to_a_sum_that_has_it(
    impatient: Database, near: Valkey, embedded_valkey_url: str, valkey_prefix: str
) -> None:
    """Valkey restarts empty, and another gateway is the first to use it."""
    budget = Budget("key:k1:total", limit_nanos=1000, keep_s=60)
    one = attempt(started_at=datetime.now(UTC))
    cut = Cut.open(embedded_valkey_url, timeout_s=5.0)
    gone, other = Reservations(cut, prefix=valkey_prefix), Reservations(near, prefix=valkey_prefix)
    unsettled = Ledger(impatient, cut, prefix=valkey_prefix, unsettled=gone.unsettled_rows)
    ledger = Ledger(impatient, near, prefix=valkey_prefix)
    demand = Demand(one.id, 0, 100, [], [budget], [budget.name], one.lost())
    await initialise(gone, budget, 0)
    await gone.reserve(demand)
    cut.cut = True
    unsettled.start()
    with pytest.raises(ValkeyUnavailable):
        await gone.settle(demand, Settlement(8, 7, ended(one)))
    assert await arrives(impatient, (one.id, "ok", 7))
    for name in await near.command("KEYS", f"{valkey_prefix}*"):
        await near.command("DEL", name)
    await initialise(other, budget, await ledger.spent_nanos("key:k1", None))
    cut.cut = False
    gone.start()
    assert await eventually(lambda: gone.unsettled == 0)
    spent = await near.command("HGET", f"{valkey_prefix}budget:{budget.name}", "spent")
    for closed in (gone, other, unsettled, cut):
        await closed.close()
    assert int(spent) == 7


@pytest.mark.parametrize(("age_s", "told"), [(0, 0), (UNSETTLED_S + 60, 7)])
async def test_row_that_is_still_to_be_settled_counts_when_its_gateway_is_given_up(
    database: Database, near: Valkey, valkey_prefix: str, age_s: float, told: int
) -> None:
    one = attempt(started_at=datetime.now(UTC) - timedelta(seconds=age_s))
    ledger = Ledger(database, near, prefix=valkey_prefix)
    await ledger._write([ended(one)], settled=False)
    assert await ledger.spent_nanos("key:k1", None) == told
    await put(near, valkey_prefix, ended(one))
    assert await ledger.spent_nanos("key:k1", None) == 7


async def test_ledger_that_is_closed_while_valkey_is_away_writes_what_is_unsettled(
    database: Database, valkey_prefix: str
) -> None:
    valkey, one = Valkey.open(UNREACHABLE), attempt()
    ledger = Ledger(database, valkey, prefix=valkey_prefix, unsettled=lambda: [ended(one)])
    ledger.start()
    await ledger.close()
    await valkey.close()
    assert await written(database) == [(one.id, "ok", 7)]


@pytest.mark.parametrize(
    "bad",
    ["not JSON", ended(attempt(id="old")).replace('"route":"local",', "")],
    ids=["broken", "of a version without a column"],
)
async def test_row_that_cannot_be_written_keeps_no_other_from_it(
    database: Database, near: Valkey, valkey_prefix: str, bad: str
) -> None:
    one = attempt()
    await put(near, valkey_prefix, bad, ended(one))
    await Ledger(database, near, prefix=valkey_prefix).drain()
    assert (one.id, "ok", 7) in await written(database)


async def test_column_that_only_a_newer_version_knows_is_left_out(
    database: Database, near: Valkey, valkey_prefix: str
) -> None:
    one = attempt()
    row = orjson.dumps(orjson.loads(ended(one)) | {"later": 1}).decode()
    await put(near, valkey_prefix, row)
    await Ledger(database, near, prefix=valkey_prefix).drain()
    assert await written(database) == [(one.id, "ok", 7)]


async def test_row_of_the_version_without_receipts_is_taken(
    database: Database, near: Valkey, valkey_prefix: str
) -> None:
    one = attempt()
    row = orjson.loads(ended(one))
    del row["receipt"]
    await put(near, valkey_prefix, orjson.dumps(row).decode())
    await Ledger(database, near, prefix=valkey_prefix).drain()
    assert await written(database) == [(one.id, "ok", 7)]


async def test_another_gateway_s_turn_ends_though_it_died(
    impatient: Database, near: Valkey, valkey_prefix: str
) -> None:
    ledger, one = Ledger(impatient, near, prefix=valkey_prefix), attempt()
    await near.command("SET", f"{valkey_prefix}drainer", "of a gateway that died", "PX", 1500)
    await put(near, valkey_prefix, ended(one))
    ledger.start()
    await asyncio.sleep(1.2)
    assert await left(near, valkey_prefix) == 1
    assert await arrives(impatient, (one.id, "ok", 7))
    await ledger.close()


async def test_ledger_that_was_closed_moves_nothing(
    impatient: Database, near: Valkey, valkey_prefix: str
) -> None:
    ledger = Ledger(impatient, near, prefix=valkey_prefix)
    ledger.start()
    await ledger.close()
    await put(near, valkey_prefix, ended(attempt()))
    await asyncio.sleep(1.1)
    assert await left(near, valkey_prefix) == 1


@pytest.fixture
async def filled(database: Database, near: Valkey, valkey_prefix: str) -> Ledger:
    """Rows of two days, two tenants, three keys and two models; some are still in Valkey."""
    ledger = Ledger(database, near, prefix=valkey_prefix)
    tomorrow = NOON + timedelta(days=1)
    rows = [
        ended(attempt(tenant="acme", key_id="k1", model="m"), cost=1),
        ended(attempt(tenant="acme", key_id="k2", model="m"), cost=10, outcome="cancelled"),
        ended(attempt(tenant="acme", key_id="k1", model="n", started_at=tomorrow), cost=100),
        ended(attempt(tenant="zeta", key_id="k3", model="n", started_at=tomorrow), cost=1000),
        attempt(tenant="zeta", key_id="k3", model="n", started_at=tomorrow).lost(),
    ]
    await put(near, valkey_prefix, *rows[:2])
    await ledger.drain()
    await put(near, valkey_prefix, *rows[2:])
    return ledger


async def costs(ledger: Ledger, *group_by: Dimension, **filters: Any) -> dict[Any, int]:
    """Return the cost of each group, in the order of the report."""
    told = await ledger.report(group_by=group_by, **filters)
    return {tuple(row.group.values()): row.cost_nanos for row in told}


async def test_report_without_a_group_sums_everything(filled: Ledger) -> None:
    (row,) = await filled.report(group_by=[])
    assert (row.group, row.requests, row.failed) == ({}, 5, 2)
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == (20, 8, 12)
    assert (row.cost_nanos, row.duration_ms) == (1111, 2000.0)


async def test_report_sums_by_each_dimension(filled: Ledger) -> None:
    told = {dimension: await costs(filled, dimension) for dimension in DIMENSIONS}
    assert told == {
        "day": {("2026-03-01",): 11, ("2026-03-02",): 1100},
        "key": {("k1",): 101, ("k2",): 10, ("k3",): 1000},
        "tenant": {("acme",): 111, ("zeta",): 1000},
        "model": {("m",): 11, ("n",): 1100},
    }


async def test_report_is_ordered_by_its_dimensions_as_they_were_given(filled: Ledger) -> None:
    told = await costs(filled, "model", "key")
    assert list(told) == [("m", "k1"), ("m", "k2"), ("n", "k1"), ("n", "k3")]
    assert len(await costs(filled, *DIMENSIONS)) == 4


FILTERS: list[tuple[dict[str, Any], int]] = [
    ({"tenant": "acme"}, 111),
    ({"key_id": "k1"}, 101),
    ({"model": "n"}, 1100),
    ({"tenant": "acme", "model": "n"}, 100),
    ({"since": date(2026, 3, 2)}, 1100),
    ({"until": date(2026, 3, 1)}, 11),
    ({"since": date(2026, 3, 1), "until": date(2026, 3, 2)}, 1111),
    ({"since": date(2026, 3, 2), "until": date(2026, 3, 2), "tenant": "acme"}, 100),
]


async def test_report_is_of_what_was_asked_for(filled: Ledger) -> None:
    told = [(filters, await costs(filled, **filters)) for filters, _ in FILTERS]
    assert told == [(filters, {(): cost}) for filters, cost in FILTERS]


@pytest.mark.parametrize("group_by", [[], ["tenant"]], ids=str)
async def test_report_of_nothing_is_empty(filled: Ledger, group_by: Sequence[Dimension]) -> None:
    assert await filled.report(group_by=group_by, tenant="nobody") == []


async def test_sums_are_whole_numbers(filled: Ledger) -> None:
    rows = await filled.report(group_by=["tenant"])
    counts = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    kinds = {type(getattr(row, name)) for row in rows for name in (*counts, "cost_nanos")}
    assert kinds == {int}


async def test_report_tells_what_there_is_while_valkey_is_away(
    filled: Ledger, database: Database
) -> None:
    assert await costs(filled) == {(): 1111}
    away = Valkey.open(UNREACHABLE)
    assert await costs(Ledger(database, away, prefix="p")) == {(): 1111}
    await away.close()


async def test_spending_counts_rows_that_are_still_in_valkey(filled: Ledger) -> None:
    assert await filled.spent_nanos("key:k1", None) == 101


SPENT: list[tuple[str, date | None, int]] = [
    ("key:k1", None, 101),
    ("tenant:acme", None, 111),
    ("tenant:acme", date(2026, 3, 2), 100),
    ("tenant:acme", date(2026, 3, 1), 111),
    ("tenant:acme", date(2026, 3, 3), 0),
    ("tenant:k1", None, 0),
    ("key:acme", None, 0),
    ("key:nobody", None, 0),
]


async def test_spending_is_of_a_key_or_a_tenant_from_a_day_on(filled: Ledger) -> None:
    told = [await filled.spent_nanos(subject, since) for subject, since, _ in SPENT]
    assert told == [nanos for *_, nanos in SPENT]
    assert {type(nanos) for nanos in told} == {int}


async def test_spending_is_not_told_while_rows_may_be_out_of_reach(
    impatient: Database, tmp_path: Path, near: Valkey, valkey_prefix: str
) -> None:
    away = Valkey.open(UNREACHABLE)
    with pytest.raises(ValkeyUnavailable):
        await Ledger(impatient, away, prefix="p").spent_nanos("key:k1", None)
    await away.close()
    await put(near, valkey_prefix, ended(attempt()))
    ledger = Ledger(impatient, near, prefix=valkey_prefix)
    with held_for_writing(tmp_path / "ringfence.db"), pytest.raises(DatabaseUnavailable):
        await ledger.spent_nanos("key:k1", None)


async def test_stop_does_not_wait_for_ever_for_what_moves_rows(
    database: Database, near: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "DRAIN_S", 0.0)
    monkeypatch.setattr(accounting, "CLOSE_WAIT_S", 0.05)
    ledger, deaf, let_go = Ledger(database, near, prefix="deaf:"), asyncio.Event(), asyncio.Event()

    async def my_turn() -> bool:
        deaf.set()
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        raise asyncio.CancelledError

    monkeypatch.setattr(ledger, "_my_turn", my_turn)
    ledger.start()
    await deaf.wait()
    closing_down = asyncio.create_task(ledger.close())
    done, _ = await asyncio.wait({closing_down}, timeout=2)
    let_go.set()
    await closing_down
    assert done


async def test_rows_that_no_stop_can_write_are_kept_for_the_next_start(
    impatient: Database, tmp_path: Path, near: Valkey, valkey_prefix: str
) -> None:
    settled, unsettled = attempt(), attempt()
    leftovers = Leftovers((tmp_path / "kept",), "usage", what="usage rows")
    await put(near, valkey_prefix, *[ended(settled)] * 2)
    with held_for_writing(tmp_path / "ringfence.db"):
        ledger = Ledger(
            impatient,
            near,
            prefix=valkey_prefix,
            leftovers=leftovers,
            unsettled=lambda: [ended(unsettled)],
        )
        ledger.start()
        left = [*await ledger.close(), *await ledger.empty()]
    assert [one.count for one in left] == [1, 2]
    assert [str(file) for file in leftovers.files()] == sorted(str(one.file) for one in left)
    await near.command("DEL", f"{valkey_prefix}outbox")  # As a Valkey whose disk was full too.
    following = Ledger(impatient, near, prefix=valkey_prefix, leftovers=leftovers)
    await following.drain()
    assert await written(impatient) == sorted((one.id, "ok", 7) for one in (settled, unsettled))
    assert leftovers.files() == []


async def test_rows_that_can_be_kept_nowhere_are_counted(
    impatient: Database, tmp_path: Path, near: Valkey, valkey_prefix: str
) -> None:
    rows = [ended(attempt()) for _ in range(3)]
    ledger = Ledger(impatient, near, prefix=valkey_prefix, unsettled=lambda: rows)
    with held_for_writing(tmp_path / "ringfence.db"):
        assert await ledger.close() == [Leftover(3, "rows", None)]


async def test_every_row_in_valkey_is_moved_when_the_last_one_stops(
    database: Database, near: Valkey, valkey_prefix: str
) -> None:
    rows = [attempt() for _ in range(BATCH + 1)]
    await put(near, valkey_prefix, *map(ended, rows))
    assert await Ledger(database, near, prefix=valkey_prefix).empty() == []
    assert len(await written(database)) == BATCH + 1
    assert await left(near, valkey_prefix) == 0


async def test_more_rows_than_a_batch_are_kept(
    impatient: Database, tmp_path: Path, near: Valkey, valkey_prefix: str
) -> None:
    await put(near, valkey_prefix, *(ended(attempt()) for _ in range(BATCH + 1)))
    leftovers = Leftovers((tmp_path / "kept",), "usage", what="usage rows")
    ledger = Ledger(impatient, near, prefix=valkey_prefix, leftovers=leftovers)
    with held_for_writing(tmp_path / "ringfence.db"):
        [told] = await ledger.empty()
    assert told.count == BATCH + 1


async def test_moving_when_valkey_is_away_says_so(database: Database, valkey_prefix: str) -> None:
    valkey = Valkey.open(UNREACHABLE)
    with pytest.raises(ValkeyUnavailable):
        await Ledger(database, valkey, prefix=valkey_prefix).empty()
    await valkey.close()


async def test_kept_file_that_cannot_be_read_does_not_keep_rows_from_sql(
    database: Database, tmp_path: Path, near: Valkey, valkey_prefix: str
) -> None:
    leftovers, one = Leftovers((tmp_path / "kept",), "usage", what="usage rows"), attempt()
    leftovers.keep(["no row"])
    (tmp_path / "kept" / "usage-a.lines").mkdir()
    await put(near, valkey_prefix, ended(one))
    assert await Ledger(database, near, prefix=valkey_prefix, leftovers=leftovers).drain() == 1
    assert [row[0] for row in await written(database)] == [one.id]
