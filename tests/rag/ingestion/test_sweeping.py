"""The sweep on both databases removes data that SQL does not know, and nothing else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import numpy as np
import pytest

from rag.index.protocols import Collection, VectorKey
from rag.ingestion.recovery import ABANDONED_S
from rag.stores.access_lists import Reader
from serving.access.tenants import TenantStore
from serving.storage.database import Database
from tests.rag.finding import MEANING, WORDS, eventually, found
from tests.rag.workshop import READER, Workshop

GLOBEX = Reader.of("globex")


@pytest.fixture
async def shop(database: Database) -> Workshop:
    shop = Workshop(database)
    await shop.open("acme", "globex")
    return shop


async def collection_of(shop: Workshop, store: str) -> Collection:
    (generation,) = await shop.stores.generations(READER, [store])
    return generation.collection


async def stray(shop: Workshop, collection: Collection) -> str:
    """Write a version into a collection that SQL does not know."""
    version = uuid.uuid4().hex
    keys = [VectorKey("file-lost", version, 0, 0)]
    await shop.vectors.write(collection, keys, np.ones((1, 16), np.float32))
    return version


async def test_sweep_drops_collections_that_nobody_knows(shop: Workshop) -> None:
    store, _ = await shop.published()
    known = await collection_of(shop, store)
    await shop.vectors.create(Collection("acme", "gen_lost"))
    await shop.recovery.sweep()
    assert set(shop.vectors.kept) == {known}


async def test_sweep_leaves_a_store_that_is_made_at_the_same_time(shop: Workshop) -> None:
    making: list[asyncio.Task[str]] = []

    def make() -> None:
        if not making:
            making.append(asyncio.create_task(shop.store()))

    await shop.published()
    shop.vectors.before = make
    for _ in range(5):
        await shop.recovery.sweep()
    await asyncio.wait(making)
    assert await shop.consistency.check() == []


async def test_sweep_erases_versions_that_nobody_knows(shop: Workshop) -> None:
    store, file = await shop.published()
    lost = await stray(shop, await collection_of(shop, store))
    assert lost in shop.versions()
    await shop.recovery.sweep()
    assert lost not in shop.versions()
    assert await found(shop, store, "apple", MEANING) == [file]


async def test_sweep_leaves_versions_that_are_being_written(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("apple")
    await shop.attach(store, file)
    batch = await shop.written()
    await shop.recovery.sweep()
    assert shop.versions() == {batch.leases[0].version}


async def test_sweep_leaves_a_version_that_is_published_at_the_same_time(shop: Workshop) -> None:
    """The version is published between the reading of its vectors and of SQL."""
    store, file = await shop.store(), await shop.upload("apple")
    await shop.attach(store, file)
    indexing: list[asyncio.Task[int]] = []

    def index() -> None:
        if not indexing:
            indexing.append(asyncio.create_task(shop.index()))

    shop.vectors.before = index
    while not indexing or not indexing[0].done():
        await shop.recovery.sweep()
    assert await found(shop, store, "apple", MEANING) == [file]
    assert await shop.consistency.check() == []


async def everything_of(shop: Workshop, tenant: str) -> tuple[set[str], set[str], Sequence[int]]:
    """Return all collections, files with bytes, and text tables."""
    async with shop.database.session() as session:
        tables = await shop.text.stores(session)
    collections = {one.name for one in shop.vectors.kept if one.tenant == tenant}
    return collections, {file for owner, file in shop.texts.kept if owner == tenant}, tables


async def test_tenant_that_is_deleted_leaves_nothing(shop: Workshop) -> None:
    kept_store, kept_file = await shop.published()
    store, file = await shop.store(GLOBEX), await shop.upload("pear", GLOBEX)
    await shop.attach(store, file, reader=GLOBEX)
    await shop.index()
    await TenantStore(shop.database).delete("globex")
    shop.clock.now += ABANDONED_S + 1
    shop.texts.changed = shop.clock.now - ABANDONED_S - 1
    await shop.recovery.settle()
    await shop.recovery.sweep()
    collections, files, tables = await everything_of(shop, "globex")
    assert (collections, files, len(tables)) == (set(), set(), 1)
    for leg in (MEANING, WORDS):
        assert await found(shop, kept_store, "apple", leg) == [kept_file]
    assert await shop.consistency.check() == []


async def test_bytes_without_a_file_are_removed_only_when_they_are_old(shop: Workshop) -> None:
    _, file = await shop.published()
    shop.texts.kept["acme", "file-upload"] = "an upload that may be going on"
    shop.texts.changed = shop.clock.now
    await shop.recovery.sweep()
    assert ("acme", "file-upload") in shop.texts.kept
    shop.clock.now += ABANDONED_S + 1
    await shop.recovery.sweep()
    assert set(shop.texts.kept) == {("acme", file)}


async def test_sweeps_at_once_and_then_when_it_is_due(shop: Workshop) -> None:
    lost = Collection("acme", "gen_lost")

    async def gone() -> bool:
        return lost not in shop.vectors.kept

    await shop.vectors.create(lost)
    (loop,) = shop.recovery.loops(poll_s=0.02, sweep_s=60)
    loop.start()
    await eventually(gone)
    await shop.vectors.create(lost)
    await asyncio.sleep(0.2)
    assert lost in shop.vectors.kept
    shop.clock.now += 61
    await eventually(gone)
    await loop.close()
