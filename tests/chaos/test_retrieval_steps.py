"""A process crashes at each step of its work on vector stores; the next one repairs everything.

On both databases, with vectors in memory: acknowledged work holds, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from rag.errors import NotThere
from rag.index.protocols import Collection
from rag.pages import PageQuery
from rag.reembedding.reembedding import Reembedding
from serving.access.errors import TenantExists
from serving.access.tenants import TenantStore
from serving.storage.database import Database
from tests.chaos.dying import Died, Life, MortalDatabase, mortal
from tests.rag.finding import MEANING, WORDS, found, noted
from tests.rag.workshop import READER, Workshop

TEXT = "apple one two three four\npear one two"
MOST = 300
"""Number of steps of any of the operations."""

LATER_S = 1000.0
"""Seconds after which every lease and intent of crashed processes has expired."""


@dataclass(frozen=True)
class Case:
    """A store with a file, and the acknowledged part of the work."""

    store: str
    file: str
    acknowledged: set[str]


Work = Callable[[Workshop, Case], Awaitable[None]]


async def ingest(shop: Workshop, case: Case) -> None:
    await shop.attach(case.store, case.file)
    case.acknowledged.add("attach")
    await shop.index()


async def ingest_anew(shop: Workshop, case: Case) -> None:
    await shop.store_files.attach(READER, case.store, case.file, attributes={}, chunking=(200, 0))
    await shop.index()


async def fail(shop: Workshop, case: Case) -> None:
    """The file cannot be read if its chunks are to have other sizes."""
    shop.texts.kept["acme", case.file] = "BROKEN"
    await ingest_anew(shop, case)
    case.acknowledged.add("failed")


async def detach(shop: Workshop, case: Case) -> None:
    await shop.store_files.detach(READER, case.store, case.file)
    case.acknowledged.add("detach")


async def delete_file(shop: Workshop, case: Case) -> None:
    await shop.files.delete(READER, case.file)
    case.acknowledged.add("delete")


async def delete_store(shop: Workshop, case: Case) -> None:
    await shop.stores.delete(READER, case.store)
    case.acknowledged.add("delete store")


async def expire(shop: Workshop, case: Case) -> None:
    await shop.stores.modify(READER, case.store, expires_after_days=1)
    shop.clock.now += 86_400
    await shop.recovery.settle()
    case.acknowledged.add("expired")


async def make_store(shop: Workshop, case: Case) -> None:
    await shop.stores.create(READER, name="new", metadata={}, file_ids=[case.file])
    await shop.index()


async def reembed(shop: Workshop, case: Case) -> None:
    reembedding = Reembedding(shop.database, shop.vectors, shop.embedders, clock=shop.clock)
    await reembedding.begin(case.store, "new")
    await reembedding.run(case.store)
    await reembedding.swap(case.store, await reembedding.compare(case.store))
    case.acknowledged.add("swap")
    await shop.attach(case.store, await shop.upload("plum"))
    await shop.index()


async def go_back(shop: Workshop, case: Case) -> None:
    reembedding = Reembedding(shop.database, shop.vectors, shop.embedders, clock=shop.clock)
    await reembedding.go_back(case.store)
    await reembedding.run(case.store)
    await reembedding.swap(case.store)


async def recover(shop: Workshop, case: Case) -> None:
    """Everything that recovery does, for a file and for a store that are deleted."""
    other = await shop.store()
    await shop.attach(other, case.file)
    await shop.index()
    await shop.vectors.create(Collection("acme", "gen_lost"))
    await shop.files.delete(READER, case.file)
    case.acknowledged.add("delete")
    await shop.recovery.settle()
    await shop.stores.delete(READER, other)
    await shop.recovery.settle()
    await shop.recovery.sweep()


FIRST: dict[Work, bool] = {
    ingest: False,
    ingest_anew: True,
    fail: True,
    detach: True,
    delete_file: True,
    delete_store: True,
    expire: True,
    make_store: True,
    reembed: True,
    go_back: True,
    recover: True,
}
"""Whether the file was published before."""

REMOVING = (fail, detach, delete_file, delete_store, expire, recover)


@pytest.fixture
async def databases(steps_url: str) -> AsyncIterator[tuple[Database, MortalDatabase]]:
    opened = Database.open(steps_url), MortalDatabase.open(steps_url)
    yield opened
    for one in opened:
        await one.close()


@pytest.mark.parametrize("work", FIRST, ids=lambda work: work.__name__)
async def test_death_at_any_step_leaves_nothing_wrong(
    databases: tuple[Database, MortalDatabase], work: Work
) -> None:
    alive, dying = databases
    first = Workshop(alive)
    await _tenant(first)
    steps = 0
    for last in range(1, MOST):
        case = await _case(first, work)
        died = await _dies(mortal(dying, first), work, case, last)
        second = Workshop(alive, first)
        await _go_on(second, case)
        assert await second.consistency.check() == [], f"died at step {last}"
        assert await noted(second) == []
        await _holds(second, work, case)
        await _clear(second)
        if not died:
            break
        steps = last
    assert 1 < steps < MOST - 1


async def _tenant(shop: Workshop) -> None:
    try:
        await shop.open()
    except TenantExists:
        await TenantStore(shop.database).delete("acme")
        await shop.open()
        await shop.recovery.sweep()


async def _case(shop: Workshop, work: Work) -> Case:
    case = Case(await shop.store(), await shop.upload(TEXT), set())
    if FIRST[work]:
        await ingest(shop, case)
    if work is go_back:
        await reembed(shop, case)
    return case


async def _dies(process: tuple[Workshop, Life], work: Work, case: Case, last: int) -> bool:
    shop, life = process
    life.last = last
    try:
        await work(shop, case)
    except Died:
        return True
    finally:
        shop.vectors.before = lambda: None
    return False


async def _go_on(shop: Workshop, case: Case) -> None:
    """Start like a new process."""
    shop.clock.now += LATER_S
    await shop.recovery.settle()
    await shop.index()
    reembedding = Reembedding(shop.database, shop.vectors, shop.embedders, clock=shop.clock)
    with suppress(NotThere):
        if await reembedding.status(case.store) is not None:
            await reembedding.run(case.store)
            await reembedding.swap(case.store, await reembedding.compare(case.store))
    await shop.recovery.settle()
    await shop.recovery.sweep()


async def _holds(shop: Workshop, work: Work, case: Case) -> None:
    """Acknowledged work is done; other work is either done completely or not at all."""
    told = case.acknowledged
    if told & {"delete store", "expired"}:
        with pytest.raises(NotThere):
            await shop.stores.generations(READER, [case.store])
        return
    with suppress(NotThere):  # It is gone where it died before it could say so.
        legs = [await found(shop, case.store, "apple", leg) for leg in (MEANING, WORDS)]
        assert legs[0] == legs[1]
        if told & {"delete", "detach", "failed"}:
            assert legs[0] == []
        elif "attach" in told and work not in REMOVING:
            assert legs[0] == [case.file]
        if legs[0]:
            assert (await shop.file(case.store, case.file)).status == "completed"


async def _clear(shop: Workshop) -> None:
    """Leave nothing for the next round, so that its check is short."""
    for store in (await shop.stores.list(READER, PageQuery(limit=100))).rows:
        await shop.stores.delete(READER, store.id)
    for file in (await shop.files.list(READER, PageQuery(limit=100))).rows:
        await shop.files.delete(READER, file.id)
    await shop.recovery.settle()
    assert shop.vectors.kept == {}
    assert shop.texts.kept == {}
