"""The egress ledger, on both kinds of database."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, text

from serving.egress.ledger.chain import Entry
from serving.egress.ledger.chain_store import LOCK
from serving.egress.ledger.checkpoints import read_file
from serving.egress.ledger.errors import LedgerFileInvalid, LedgerTruncated, LedgerUnavailable
from serving.egress.ledger.ledger import ArrivalFacts, EgressLedger
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import TreeHead
from serving.egress.ledger.reading import all_checkpoints, leaves_to, verify_database
from serving.egress.ledger.verification import Report
from serving.storage.database import Database
from serving.storage.leftovers import Leftovers
from serving.storage.schema import EgressCheckpoint
from tests.serving.egress.ledgers import (
    NOON,
    SECRET,
    SIGNER,
    database,
    entries_in,
    facts,
    kinds_become,
    migrated_url,
    postgres_url,
    rules,
    signed_before,
    signed_in,
)

__all__ = ["database", "migrated_url", "postgres_url"]

ROOT = Path(__file__).parents[4]
BODY = b'{"messages":[{"content":"The canary sings."}]}'
OK = ArrivalFacts("ok", 12, 34, 56_000, 789, 1011)
Make = Callable[..., EgressLedger]


class Clock:
    """A wall clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[EgressLedger]:
    made = EgressLedger(database, SECRET, rules(), write_timeout_s=60)
    yield made
    await made.close()


@asynccontextmanager
async def held(migrated_url: str) -> AsyncIterator[None]:
    """Block all appends, as when another gateway hangs during its append."""
    other = Database.open(migrated_url)
    async with other.transaction() as session:
        await session.execute(LOCK if other.dialect == "postgresql" else text("SELECT 1"))
        yield
    await other.close()


async def change(database: Database, statement: str) -> None:
    """Tamper with the database, as someone with write access could."""
    async with database.transaction() as session:
        await session.execute(text(statement))


async def verified(database: Database) -> Report:
    return await verify_database(database, SIGNER.public_keys)


async def test_departure_is_recorded_before_depart_returns(
    ledger: EgressLedger, database: Database
) -> None:
    entry = await ledger.depart(facts(), BODY)
    assert await entries_in(database) == [entry]
    told = asdict(facts()) | {"body_hmac": ledger.body_hmac(BODY), "body_bytes": len(BODY)}
    ids = {name: told.pop(name) for name in ("request_id", "attempt_id", "tenant")}
    assert entry.told == told
    assert {name: getattr(entry, name) for name in ids} == ids


async def test_body_is_known_by_an_hmac_under_a_key_of_its_own(ledger: EgressLedger) -> None:
    key = hmac.digest(SECRET, b"ringfence egress body 1", "sha256")
    assert ledger.body_hmac(BODY) == hmac.new(key, BODY, hashlib.sha256).hexdigest()


async def test_no_text_of_a_body_is_in_the_database(
    ledger: EgressLedger, database: Database
) -> None:
    await ledger.arrive(await ledger.depart(facts(), BODY), OK)
    rows = repr(await entries_in(database)) + repr(await all_checkpoints(database))
    assert "req_1" in rows
    assert "canary" not in rows


async def test_arrival_refers_to_its_departure(ledger: EgressLedger, database: Database) -> None:
    departure = await ledger.depart(facts(), BODY)
    await ledger.arrive(departure, OK)
    _, arrival = await entries_in(database)
    assert (arrival.kind, arrival.departure, arrival.sequence) == ("arrival", 1, 2)
    assert (arrival.request_id, arrival.attempt_id, arrival.tenant) == ("req_1", "a1", "acme")
    assert arrival.told == asdict(OK)


async def test_arrival_that_is_told_twice_is_recorded_once(
    ledger: EgressLedger, database: Database
) -> None:
    departure = await ledger.depart(facts(), BODY)
    await asyncio.gather(ledger.arrive(departure, OK), ledger.arrive(departure, OK))
    await ledger.arrive(departure, ArrivalFacts("cancelled"))
    await ledger.depart(facts(), BODY)
    assert await kinds_become(database, "departure", "ok", "departure")


async def test_request_has_its_own_crossings_only(ledger: EgressLedger) -> None:
    first = await ledger.depart(facts(attempt_id="a1"), BODY)
    await ledger.depart(facts(tenant="globex"), BODY)
    await ledger.depart(facts(request_id="req_2"), BODY)
    second = await ledger.depart(facts(attempt_id="a2"), BODY)
    await ledger.arrive(second, OK)
    found = await ledger.of_request("req_1", "acme")
    assert [(one.departure, one.arrival and one.arrival.told) for one in found] == [
        (first, None),
        (second, asdict(OK)),
    ]
    assert await ledger.of_request("req_3", "acme") == []


async def test_two_gateways_append_to_one_chain_without_gap_or_fork(
    migrated_url: str, database: Database
) -> None:
    others = [Database.open(migrated_url) for _ in range(2)]
    ledgers = [EgressLedger(one, SECRET, rules(), write_timeout_s=60) for one in others]

    async def cross(number: int) -> tuple[Entry, int]:
        await asyncio.sleep(number % 7 / 1000)
        ledger = ledgers[number % 2]
        body = str(number).encode()
        departure = await ledger.depart(facts(attempt_id=f"a{number}"), body)
        await ledger.arrive(departure, OK)
        return departure, number

    crossed = await asyncio.gather(*(cross(number) for number in range(200)))
    entries = await entries_in(database)
    assert [entry.sequence for entry in entries] == list(range(1, 401))
    assert (await verified(database)).fault is None
    departures = {entry.sequence: entry for entry in entries if entry.kind == "departure"}
    assert all(departures[entry.sequence] == entry for entry, _ in crossed)
    hmacs = {entry.told["body_hmac"] for entry in departures.values()}
    assert hmacs == {ledgers[0].body_hmac(str(number).encode()) for number in range(200)}
    assert {entry.departure for entry in entries if entry.kind == "arrival"} == set(departures)
    for one, opened in zip(ledgers, others, strict=True):
        await one.close()
        await opened.close()


GATEWAY = """
import asyncio, sys
from serving.egress.ledger.ledger import ArrivalFacts, EgressLedger
from serving.storage.database import Database
from tests.serving.egress.ledgers import SECRET, facts, rules

async def run():
    ledger = EgressLedger(Database.open(sys.argv[1]), SECRET, rules(), write_timeout_s=30)

    async def cross():
        while True:
            entry = await ledger.depart(facts(), b"body")
            print(entry.hash, flush=True)
            await ledger.arrive(entry, ArrivalFacts("ok"))

    await asyncio.gather(*(cross() for _ in range(8)))

asyncio.run(run())
"""


def gateway(url: str) -> subprocess.Popen[bytes]:
    """A process that lets requests leave, and prints the hash of each entry."""
    command = [sys.executable, "-c", GATEWAY, url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


async def test_killed_gateways_leave_a_whole_chain_with_all_that_left(
    migrated_url: str, database: Database
) -> None:
    processes = [gateway(migrated_url) for _ in range(2)]
    try:
        async with asyncio.timeout(60):
            while len(await entries_in(database)) < 100:  # noqa: ASYNC110  It has no event.
                await asyncio.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
    said = [(await asyncio.to_thread(process.communicate))[0] for process in processes]
    left = {line.decode() for text in said for line in text.splitlines() if len(line) == 64}
    assert (await verified(database)).fault is None
    departures = [one for one in await entries_in(database) if one.kind == "departure"]
    assert left
    assert left <= {entry.hash for entry in departures}


async def test_nothing_may_leave_while_the_ledger_cannot_be_written(
    migrated_url: str, database: Database
) -> None:
    ledger = EgressLedger(database, SECRET, rules(), write_timeout_s=0.2)
    async with held(migrated_url):
        found = await asyncio.gather(
            *(ledger.depart(facts(), BODY) for _ in range(2)), return_exceptions=True
        )
        waiting = asyncio.create_task(ledger.depart(facts(), BODY))
        with pytest.raises(LedgerUnavailable):
            await waiting
    assert [type(one) for one in found] == [LedgerUnavailable] * 2
    # The two were in a transaction already, which may end well; the third never was.
    assert await kinds_become(database, *("departure", "departure", "not_sent", "not_sent"))
    await ledger.close()


async def test_database_that_is_away_lets_nothing_leave() -> None:
    away = Database.open("postgresql://u:hidden@127.0.0.1:1/x")
    ledger = EgressLedger(away, SECRET, rules())
    with pytest.raises(LedgerUnavailable) as raised:
        await ledger.depart(facts(), BODY)
    assert "hidden" not in str(raised.value)
    await ledger.close()
    await away.close()


async def test_attempt_that_is_given_up_meanwhile_is_told_not_sent(
    migrated_url: str, ledger: EgressLedger, database: Database
) -> None:
    async with held(migrated_url):
        leaving = asyncio.create_task(ledger.depart(facts(), BODY))
        await asyncio.sleep(0.1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert await kinds_become(database, "departure", "not_sent")


async def test_arrival_that_cannot_be_written_now_is_written_later(
    migrated_url: str, ledger: EgressLedger, database: Database
) -> None:
    departure = await ledger.depart(facts(), BODY)
    impatient = EgressLedger(database, SECRET, rules(), write_timeout_s=0.2)
    async with held(migrated_url):
        await impatient.arrive(departure, OK)
    assert await kinds_become(database, "departure", "ok")
    await impatient.close()


async def test_arrival_survives_a_database_that_refuses(
    ledger: EgressLedger, database: Database
) -> None:
    departure = await ledger.depart(facts(), BODY)
    await change(database, "ALTER TABLE egress_entries RENAME TO gone")
    ending = asyncio.create_task(ledger.arrive(departure, OK))
    with pytest.raises(LedgerUnavailable):
        await ledger.depart(facts(attempt_id="a2"), BODY)
    await change(database, "ALTER TABLE gone RENAME TO egress_entries")
    await ending
    assert await kinds_become(database, "departure", "ok")


async def test_arrival_of_a_cancelled_attempt_is_recorded(
    ledger: EgressLedger, database: Database
) -> None:
    departure = await ledger.depart(facts(), BODY)

    async def attempt() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await ledger.arrive(departure, ArrivalFacts("cancelled"))

    running = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await kinds_become(database, "departure", "cancelled")


async def test_head_is_signed_after_so_many_entries(database: Database) -> None:
    ledger = EgressLedger(database, SECRET, rules(every_entries=3))
    for _ in range(7):
        await ledger.depart(facts(), BODY)
    assert await signed_in(database) == [1, 4, 7]  # The first one at once: it is late.
    await ledger.close()


async def test_head_is_signed_after_so_long(database: Database) -> None:
    clock = Clock()
    ledger = EgressLedger(database, SECRET, rules(every_s=10.0), now=clock)
    for seconds in (0, 9.9, 0.1, 9.9, 0.1):
        clock.pass_(seconds)
        await ledger.depart(facts(), BODY)
    assert await signed_in(database) == [1, 3, 5]
    await ledger.close()


async def test_head_is_signed_at_the_end(ledger: EgressLedger, database: Database) -> None:
    for _ in range(5):
        await ledger.depart(facts(), BODY)
    await ledger.close()
    assert await signed_in(database) == [1, 5]


async def test_head_of_a_quiet_ledger_is_signed(database: Database) -> None:
    ledger = EgressLedger(database, SECRET, rules(every_s=0.2))
    ledger.start()
    await ledger.depart(facts(), BODY)
    await ledger.depart(facts(), BODY)
    async with asyncio.timeout(30):
        while await signed_in(database) != [1, 2]:  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.02)
    await ledger.close()


async def test_every_checkpoint_is_in_the_file_too(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.jsonl"
    ledger = EgressLedger(database, SECRET, rules(every_entries=2, file=file))
    for _ in range(4):
        await ledger.depart(facts(), BODY)
    await ledger.close()
    kept = read_file(file, SIGNER.public_keys)
    assert kept == [replace(one, frontier=None) for one in await all_checkpoints(database)]
    assert [one.sequence for one in kept] == [1, 3, 4]
    assert (await verify_database(database, SIGNER.public_keys, anchors=kept)).fault is None


async def test_file_that_cannot_be_written_stops_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = EgressLedger(database, SECRET, rules(file=tmp_path / "missing" / "file"))
    await ledger.depart(facts(), BODY)
    await ledger.close()
    assert await signed_in(database) == [1]
    assert "no checkpoint can be written" in caplog.text


async def test_file_that_hangs_stops_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pipe"
    os.mkfifo(file)  # To open it waits for somebody who reads.
    ledger = EgressLedger(database, SECRET, rules(every_entries=1, file=file))
    try:
        for _ in range(3):
            await ledger.depart(facts(), BODY)
        async with asyncio.timeout(60):
            await ledger.close()
    finally:
        reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    assert await signed_in(database) == [1, 2, 3]
    assert "no checkpoint can be written to its file: TimeoutError" in caplog.text
    os.close(reader)


async def test_nothing_leaves_once_signed_entries_are_gone(
    ledger: EgressLedger, database: Database
) -> None:
    await ledger.depart(facts(), BODY)
    await change(database, "DELETE FROM egress_entries")
    with pytest.raises(LedgerTruncated, match="ends at entry 0, but entry 1 was signed"):
        await ledger.depart(facts(), BODY)
    assert await entries_in(database) == []


async def test_nothing_leaves_once_what_was_written_here_is_changed(
    ledger: EgressLedger, database: Database
) -> None:
    for _ in range(3):
        await ledger.depart(facts(), BODY)
    await change(database, "DELETE FROM egress_checkpoints")
    await change(database, "DELETE FROM egress_entries WHERE sequence = 3")
    with pytest.raises(LedgerTruncated, match="entry 3 of the egress ledger is not as it was"):
        await ledger.depart(facts(), BODY)
    assert len(await entries_in(database)) == 2


async def test_checkpoints_of_version_1_stay_and_notes_go_on_from_them(
    ledger: EgressLedger, database: Database
) -> None:
    for _ in range(3):
        entry = await ledger.depart(facts(), BODY)
    before = signed_before(entry)
    await change(database, "DELETE FROM egress_checkpoints")
    async with database.transaction() as session:
        await session.execute(insert(EgressCheckpoint).values(**asdict(before)))
    await ledger.depart(facts(), BODY)
    await ledger.close()
    last = (await all_checkpoints(database))[-1]
    leaves = await leaves_to(database, 4)
    assert await all_checkpoints(database) == [before, last]
    assert TreeHead.of(last.note_text or "").root == Frontier().with_leaves(leaves).root
    assert await verified(database) == Report(4, 4, None)
    await change(database, "UPDATE egress_entries SET tenant = 'x' WHERE sequence = 2")
    with pytest.raises(LedgerFileInvalid, match="entry 2"):
        await leaves_to(database, 4)


async def test_tree_that_is_not_as_it_was_signed_lets_nothing_leave(
    ledger: EgressLedger, database: Database
) -> None:
    await ledger.depart(facts(), BODY)
    for change_of in (
        "UPDATE egress_checkpoints SET frontier = 'nonsense'",
        "UPDATE egress_checkpoints SET frontier = '" + "A" * 43 + "='",
        "UPDATE egress_checkpoints SET note_text = 'x'",
    ):
        await change(database, change_of)
        with pytest.raises(LedgerTruncated, match="checkpoint of entry 1 is not as it was signed"):
            await ledger.depart(facts(), BODY)


async def test_chain_with_a_gap_since_it_was_signed_is_not_signed(
    ledger: EgressLedger, database: Database
) -> None:
    for _ in range(4):
        await ledger.depart(facts(), BODY)
    await change(database, "DELETE FROM egress_entries WHERE sequence = 3")
    await ledger.close()
    assert await signed_in(database) == [1]


COPY = """
INSERT INTO egress_entries
SELECT 11, previous, kind, at, request_id, attempt_id, tenant, departure, facts, hash
FROM egress_entries WHERE sequence = 10
"""
SWAP = """
UPDATE egress_entries SET sequence = sequence - 7 WHERE sequence IN (3, 4);
UPDATE egress_entries SET sequence = -sequence WHERE sequence < 0
"""
TAMPERING: list[tuple[str, tuple[int, int] | None]] = [
    ("UPDATE egress_entries SET tenant = 'x' WHERE sequence = 4", (4, 4)),
    ("UPDATE egress_entries SET facts = '{}' WHERE sequence = 7", (7, 7)),
    ("UPDATE egress_entries SET hash = 'x' WHERE sequence = 7", (7, 7)),
    ("UPDATE egress_entries SET departure = 2 WHERE sequence = 5", (5, 5)),
    ("DELETE FROM egress_entries WHERE sequence BETWEEN 3 AND 5", (3, 5)),
    ("DELETE FROM egress_entries WHERE sequence = 1", (1, 1)),
    ("DELETE FROM egress_entries WHERE sequence > 6", (7, 10)),
    ("DELETE FROM egress_entries", (1, 10)),
    (COPY, (11, 11)),
    (SWAP, (3, 3)),
    ("UPDATE egress_checkpoints SET hash = 'x'", (1, 1)),
    ("UPDATE egress_checkpoints SET note_text = NULL", (1, 1)),
    ("UPDATE egress_checkpoints SET note_text = 'x' WHERE sequence = 10", (10, 10)),
    ("UPDATE egress_checkpoints SET sequence = 8 WHERE sequence = 10", (8, 8)),
    ("SELECT 1", None),
]


@pytest.mark.parametrize(("statement", "where"), TAMPERING)
async def test_change_of_the_database_is_found(
    ledger: EgressLedger, database: Database, statement: str, where: tuple[int, int] | None
) -> None:
    for _ in range(10):
        await ledger.depart(facts(), BODY)
    await ledger.close()
    for one in statement.split(";"):
        await change(database, one)
    fault = (await verified(database)).fault
    assert (fault and (fault.first, fault.last)) == where


async def test_ledger_of_many_pages_is_verified(
    ledger: EgressLedger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.egress.ledger.reading._PAGE", 3)
    for _ in range(9):
        await ledger.depart(facts(), BODY)
    assert await verified(database) == Report(9, 1, None)


async def test_ledger_can_be_verified_while_it_is_written(
    ledger: EgressLedger, database: Database
) -> None:
    async def write() -> None:
        for _ in range(50):
            await ledger.depart(facts(), BODY)

    writing = asyncio.create_task(write())
    reports: list[Any] = []
    while not writing.done():
        reports.append(await verified(database))
    await writing
    assert {report.fault for report in reports} == {None}


async def test_end_that_no_stop_can_write_is_written_at_the_next_start(
    migrated_url: str, ledger: EgressLedger, database: Database, tmp_path: Path
) -> None:
    leftovers = Leftovers((tmp_path / "kept",), "egress", what="entries")
    departures = [await ledger.depart(facts(attempt_id=one), BODY) for one in ("a1", "a2")]
    impatient = EgressLedger(database, SECRET, rules(), leftovers=leftovers, write_timeout_s=0.2)
    async with held(migrated_url):
        for departure in departures:
            await impatient.arrive(departure, OK)
        closing = asyncio.create_task(impatient.close())
        async with asyncio.timeout(25):  # SQLite waits for the lock for 30 s.
            while not leftovers.files():  # noqa: ASYNC110  It has no event.
                await asyncio.sleep(0.01)
    left, signed = await closing
    assert ([one.count for one in left], signed) == ([2], False)
    following = EgressLedger(database, SECRET, rules(), leftovers=leftovers)
    following.start()
    assert await kinds_become(database, "departure", "departure", "ok", "ok")
    assert await following.close() == ([], True)
    assert leftovers.files() == []


async def test_end_that_was_written_after_all_is_not_written_again(
    database: Database, tmp_path: Path
) -> None:
    leftovers = Leftovers((tmp_path / "kept",), "egress", what="entries")
    ledger = EgressLedger(database, SECRET, rules(), leftovers=leftovers)
    departure = await ledger.depart(facts(), BODY)
    await ledger.arrive(departure, OK)
    leftovers.keep([orjson.dumps(asdict(ledger._arrival(departure, OK))).decode(), "no entry"])
    ledger.start()
    async with asyncio.timeout(30):
        while leftovers.files():  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.01)
    assert await kinds_become(database, "departure", "ok")
    await ledger.close()


async def test_closing_signs_the_head(database: Database) -> None:
    ledger = EgressLedger(database, SECRET, rules())
    await ledger.depart(facts(), BODY)
    assert await ledger.close() == ([], True)
    assert (await signed_in(database))[-1] == 1
