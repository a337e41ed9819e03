"""Recovery on both databases: intents are carried out, and unknown data is removed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from rag.errors import IndexUnavailable
from rag.index.protocols import Collection
from rag.ingestion import leases
from rag.schema import IndexGeneration, StoreFile
from rag.stores.access_lists import Reader
from serving.storage.database import Database
from tests.rag.finding import MEANING, eventually, found, note, noted
from tests.rag.workshop import READER, Workshop

GLOBEX = Reader.of("globex")


@pytest.fixture
async def shop(database: Database) -> Workshop:
    shop = Workshop(database)
    await shop.open("acme", "globex")
    return shop


async def nothing_noted(shop: Workshop) -> bool:
    return await noted(shop) == []


async def collection_of(shop: Workshop, store: str) -> Collection:
    (generation,) = await shop.stores.generations(READER, [store])
    return generation.collection


async def test_file_that_is_deleted_leaves_no_vectors_and_no_bytes(shop: Workshop) -> None:
    store, file = await shop.published()
    kept = await shop.upload("pear")
    await shop.attach(store, kept)
    await shop.index()
    await shop.files.delete(READER, file)
    assert {kind for kind, _ in await noted(shop)} == {"erase", "blob"}
    await shop.recovery.settle()
    assert set(shop.texts.kept) == {("acme", kept)}
    assert len(shop.versions()) == 1
    assert await noted(shop) == []


async def test_store_that_is_deleted_leaves_no_collection(shop: Workshop) -> None:
    store, file = await shop.published()
    await shop.stores.delete(READER, store)
    assert [kind for kind, _ in await noted(shop)] == ["drop"]
    await shop.recovery.settle()
    assert shop.vectors.kept == {}
    assert set(shop.texts.kept) == {("acme", file)}
    assert await noted(shop) == []


async def test_file_that_is_detached_is_erased_from_its_store_only(shop: Workshop) -> None:
    store, file = await shop.published()
    other = await shop.store()
    await shop.attach(other, file)
    await shop.index()
    await shop.store_files.detach(READER, store, file)
    await shop.recovery.settle()
    assert await found(shop, store, "apple", MEANING) == []
    assert await found(shop, other, "apple", MEANING) == [file]


async def test_vectors_of_a_dead_writer_are_erased_after_its_lease(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("apple")
    await shop.attach(store, file)
    await shop.written()
    await shop.recovery.settle()
    assert len(shop.versions()) == 1, "the writer may live"
    shop.clock.now += leases.LEASE_S + 1
    await shop.recovery.settle()
    assert shop.versions() == set()
    assert await noted(shop) == []


async def test_vectors_of_a_dead_writer_stay_where_they_were_published(shop: Workshop) -> None:
    store, file = await shop.published()
    (version,) = shop.versions()
    await note(shop, "write", version, collection=(await collection_of(shop, store)).name)
    await shop.recovery.settle()
    assert await found(shop, store, "apple", MEANING) == [file]
    assert await noted(shop) == []


async def test_collection_in_the_making_is_left_alone_until_its_time_is_up(shop: Workshop) -> None:
    made = Collection("acme", "gen_new")
    await note(shop, "drop", made.name, until=shop.clock.now + 10)
    await shop.vectors.create(made)
    await shop.recovery.settle()
    await shop.recovery.sweep()
    assert made in shop.vectors.kept
    shop.clock.now += 11
    await shop.recovery.settle()
    assert made not in shop.vectors.kept
    assert await noted(shop) == []


@pytest.mark.parametrize("kind", ["erase", "drop", "blob"])
async def test_intent_whose_subject_is_there_again_removes_nothing(
    shop: Workshop, kind: str
) -> None:
    store, file = await shop.published()
    place = await collection_of(shop, store)
    subject = {"erase": shop.versions().pop(), "drop": place.name, "blob": file}[kind]
    await note(shop, kind, subject, collection=place.name)
    await shop.recovery.settle()
    assert await noted(shop) == []
    assert await shop.consistency.check() == []


async def test_failure_in_the_middle_leaves_what_was_not_done(shop: Workshop) -> None:
    store = await shop.store()
    files = [await shop.upload(f"apple {n}") for n in range(3)]
    await shop.attach(store, *files)
    await shop.index()
    for file in files:
        await shop.store_files.detach(READER, store, file)
    calls = iter(range(10))

    def fail() -> None:
        if next(calls) == 1:
            raise IndexUnavailable("x")

    shop.vectors.before = fail
    with pytest.raises(IndexUnavailable):
        await shop.recovery.settle()
    assert [kind for kind, _ in await noted(shop)] == ["erase", "erase"]
    await shop.recovery.settle()
    assert shop.versions() == set()
    assert await noted(shop) == []


async def test_keeps_going_after_errors_until_it_is_cancelled(shop: Workshop) -> None:
    store, _ = await shop.published()
    fails = iter([True, True, False])

    def fail() -> None:
        if next(fails, False):
            raise IndexUnavailable("x")

    shop.vectors.before = fail
    (loop,) = shop.recovery.loops(poll_s=0.02, sweep_s=60)
    loop.start()
    await shop.stores.delete(READER, store)
    loop.wake()
    await eventually(lambda: nothing_noted(shop))
    await loop.close()
    assert not loop.runs
    assert shop.vectors.kept == {}


async def test_file_is_whole_where_its_writer_and_recovery_meet(shop: Workshop) -> None:
    """A writer pauses in its publication until its lease expires, and recovery runs then."""
    store, file = await shop.store(), await shop.upload("apple")
    await shop.attach(store, file)
    add, other = shop.text.add, Workshop(shop.database, shop)
    settling: list[asyncio.Task[None]] = []

    async def slowly(*arguments, **named):
        shop.clock.now += leases.LEASE_S + 1
        settling.append(asyncio.create_task(other.recovery.settle()))
        await asyncio.sleep(0.3)
        await add(*arguments, **named)

    shop.text.add = slowly  # type: ignore[method-assign]
    await shop.index()
    await asyncio.gather(*settling)
    await other.index()
    await other.recovery.settle()
    assert (await shop.file(store, file)).status == "completed"
    assert await shop.consistency.check() == []


async def test_generations_of_expired_and_deleted_stores_are_gone(shop: Workshop) -> None:
    store, _ = await shop.published()
    await shop.stores.modify(READER, store, expires_after_days=1)
    shop.clock.now += 86_401
    await shop.recovery.settle()
    async with shop.database.session() as session:
        assert list(await session.scalars(select(IndexGeneration))) == []
        assert list(await session.scalars(select(StoreFile))) == []
    assert shop.vectors.kept == {}
