"""Nothing is lost and nothing comes back, whenever the process that owns the indexes is killed.

It is killed and restarted on the same directories while files are added, changed and deleted and
stores are re-embedded. Then everything must agree with SQL and with the acknowledged operations.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rag.errors import NotThere
from rag.pages import PageQuery
from serving.access.tenants import TenantStore
from serving.storage.database import Database
from tests.chaos.retrieval_process import LEASE_S, READER, Documents, marker
from tests.rag.finding import eventually

ROUNDS = 6
MANY_ROUNDS = 60
START_S = 60.0
REST_S = 60.0
LATER_S = 5000.0
"""Seconds after which every lease, intent and abandoned upload has expired."""


@dataclass
class Told:
    """The acknowledged operations. Others may have happened or not."""

    attached: dict[tuple[str, str], bool | None] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    uploaded: set[str] = field(default_factory=set)
    done: int = 0

    def hear(self, lines: Sequence[bytes]) -> None:
        """Read the output of one process. An incomplete line was about to be acknowledged."""
        for line in lines:
            try:
                about, what, *subject = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._note(what, subject, sure=about == "done")

    def _note(self, what: str, subject: Sequence[str], *, sure: bool) -> None:
        self.done += sure
        if what in ("attach", "detach"):
            store, file = subject
            self.attached[store, file] = (what == "attach") if sure else None
        elif what in ("delete", "delete store"):
            (self.deleted if sure else self.unsure).add(subject[0])
        elif what == "upload" and sure:
            self.uploaded.add(subject[0])


def lives(home: Path, url: str, seed: int, chance: random.Random, later_s: float) -> list[bytes]:
    """Run a process until it is killed, and return its output."""
    command = [
        *(sys.executable, "-m", "tests.chaos.retrieval_process"),
        *(str(home), url, str(seed), str(later_s)),
    ]
    said = home / f"said-{seed}"
    with said.open("wb") as output, (home / "errors").open("ab") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            begins = time.monotonic()
            while not said.stat().st_size:
                assert process.poll() is None, (home / "errors").read_text()[-3000:]
                assert time.monotonic() < begins + START_S
                time.sleep(0.02)
            time.sleep(chance.uniform(0.2, 1.5))
            assert process.poll() is None, (home / "errors").read_text()[-3000:]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    return said.read_bytes().splitlines()


@pytest.mark.parametrize(
    "rounds",
    [ROUNDS, pytest.param(MANY_ROUNDS, marks=[pytest.mark.full, pytest.mark.timeout(900)])],
)
async def test_kills_lose_nothing_that_was_acknowledged(
    steps_url: str, tmp_path: Path, rounds: int
) -> None:
    database = Database.open(steps_url)
    await TenantStore(database).create("acme")
    await database.close()
    chance, told, later_s = random.Random(rounds), Told(), 0.0  # noqa: S311
    for seed in range(rounds):
        told.hear(await asyncio.to_thread(lives, tmp_path, steps_url, seed, chance, later_s))
        later_s += chance.choice((0.0, LEASE_S + 1))
    assert told.done > rounds
    later_s += LATER_S
    documents = Documents(tmp_path, steps_url, clock=lambda: time.time() + later_s)
    try:
        await rests(documents)
        assert await documents.consistency.check() == []
        await agrees(documents, told)
        await TenantStore(documents.database).delete("acme")
    finally:
        await documents.close()


async def rests(documents: Documents) -> None:
    """Let the last process finish all work."""

    async def idle() -> bool:
        while await documents.ingestion.step():
            pass
        await documents.recovery.settle()
        stores = (await documents.stores.list(READER, PageQuery(limit=100))).rows
        facts = [await documents.jobs.facts(one.id) for one in stores]
        return not any(one.counts.in_progress for one in stores) and not any(
            one.phase in ("running", "complete") for one in facts
        )

    await documents.jobs.resume()
    await eventually(idle, within_s=REST_S)
    await documents.recovery.sweep()


async def agrees(documents: Documents, told: Told) -> None:
    """Check that everything is as acknowledged, for each file and each store."""
    stores = {one.id for one in (await documents.stores.list(READER, PageQuery(limit=100))).rows}
    files = {one.id for one in (await documents.files.list(READER, PageQuery(limit=100))).rows}
    assert not (stores | files) & told.deleted
    assert told.uploaded - files <= told.deleted | told.unsure
    assert {file async for _, file, _ in documents.contents.listed()} == files
    for (store, file), attached in told.attached.items():
        gone = {store, file} & told.deleted or not {store, file} <= stores | files
        if gone or attached is False:
            await found_nowhere(documents, store, file)
        elif attached:
            assert await documents.found(store, marker(file)) == [{file}, {file}]
            record = await documents.store_files.get(READER, store, file)
            assert record.status == "completed"
        else:
            assert await documents.found(store, marker(file)) in ([{file}, {file}], [set(), set()])
    for store in {store for store, _ in told.attached} - stores:
        assert store in told.deleted | told.unsure


async def found_nowhere(documents: Documents, store: str, file: str) -> None:
    try:
        assert await documents.found(store, marker(file)) == [set(), set()]
    except NotThere:
        return  # The store itself is gone.
    with pytest.raises(NotThere):
        await documents.store_files.get(READER, store, file)
