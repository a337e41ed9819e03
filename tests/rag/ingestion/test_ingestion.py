"""Ingestion on SQL, with vectors in memory: what is published, what fails, and what waits."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select, update

from models.background import close_all
from models.engine import EngineUnavailable
from rag.errors import FileUnreadable, IndexUnavailable
from rag.ingestion import leases
from rag.reembedding.reembedding import Reembedding
from rag.schema import IndexIntent, StoreFile
from rag.stores.access_lists import Reader
from serving.storage.database import Database
from tests.rag.store_with_vectors import WordEmbedder, served
from tests.rag.workshop import READER, Workshop


@pytest.fixture
async def shop(database: Database) -> Workshop:
    shop = Workshop(database)
    await shop.open("acme", "globex")
    return shop


async def noted(shop: Workshop) -> int:
    async with shop.database.session() as session:
        return await session.scalar(select(func.count()).select_from(IndexIntent)) or 0


async def test_files_are_published_with_all_their_chunks(shop: Workshop) -> None:
    store = await shop.store()
    files = [await shop.upload(f"one {n}\ntwo {n} long enough for windows") for n in range(40)]
    await shop.attach(store, *files)
    await shop.index()
    assert {(await shop.file(store, one)).status for one in files} == {"completed"}
    content = await shop.store_files.content(READER, store, files[3])
    assert list(content) == ["one 3", "two 3 long enough for windows"]
    assert await shop.consistency.check() == []
    assert await noted(shop) == 0


async def test_broken_file_fails_with_its_reason_and_the_others_go_on(shop: Workshop) -> None:
    store = await shop.store()
    good, broken, empty = [await shop.upload(text) for text in ("fine", "BROKEN", "")]
    await shop.attach(store, good, broken, empty)
    await shop.index()
    found = [await shop.file(store, one) for one in (good, broken, empty)]
    assert [one.status for one in found] == ["completed", "failed", "failed"]
    assert [one.error_message for one in found] == [
        None,
        "The file is broken.",
        "The file has no text.",
    ]
    assert await shop.consistency.check() == []


async def test_file_whose_content_is_gone_fails(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    shop.texts.kept.clear()
    await shop.index()
    assert (await shop.file(store, file)).error_code == "server_error"


async def test_new_chunk_sizes_replace_what_was_published(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    await shop.index()
    before = shop.versions()
    await shop.store_files.attach(READER, store, file, attributes={}, chunking=(200, 50))
    await shop.index()
    assert (shop.parser.cuts[-1].chunk_tokens, shop.parser.cuts[-1].overlap_tokens) == (200, 50)
    await shop.recovery.settle()
    assert len(shop.versions()) == 1
    assert shop.versions().isdisjoint(before)
    assert await shop.consistency.check() == []


async def test_file_that_was_published_and_then_fails_is_found_no_more(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    await shop.index()
    shop.texts.kept["acme", file] = "BROKEN"
    await shop.store_files.attach(READER, store, file, attributes={}, chunking=(200, 50))
    await shop.index()
    await shop.recovery.settle()
    assert (await shop.file(store, file)).status == "failed"
    assert shop.versions() == set()
    assert await shop.consistency.check() == []


@pytest.mark.parametrize("error", [IndexUnavailable("x"), OSError()])
async def test_what_does_not_answer_lets_files_wait_and_blames_none(
    shop: Workshop, error: Exception
) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)

    def fail() -> None:
        raise error

    shop.vectors.before = fail
    await shop.index()
    assert (await shop.file(store, file)).status == "in_progress"
    shop.vectors.before = lambda: None
    assert await shop.index() == 0, "it is not tried again at once"
    shop.clock.now += 10
    await shop.index()
    assert (await shop.file(store, file)).status == "completed"
    async with shop.database.session() as session:
        assert await session.scalar(select(StoreFile.tries)) == 1
    await shop.recovery.settle()
    assert await shop.consistency.check() == []


async def test_parser_that_was_closed_says_nothing_of_the_file(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    shop.parser.down = True
    await shop.index()
    assert (await shop.file(store, file)).status == "in_progress"


async def test_file_that_never_comes_to_an_end_fails_at_last(shop: Workshop) -> None:
    store = await shop.store()
    bad, good = await shop.upload("text"), await shop.upload("text")
    await shop.attach(store, bad, good)
    async with shop.database.transaction() as session:
        tries = update(StoreFile).where(StoreFile.file_id == bad).values(tries=leases.MAX_TRIES)
        await session.execute(tries)
    await shop.index()
    assert (await shop.file(store, bad)).status == "failed"
    assert (await shop.file(store, good)).status == "completed"


async def test_suspicious_file_is_claimed_alone(shop: Workshop) -> None:
    store = await shop.store()
    files = [await shop.upload("text") for _ in range(3)]
    await shop.attach(store, *files)
    async with shop.database.transaction() as session:
        row = update(StoreFile).where(StoreFile.file_id == files[1])
        await session.execute(row.values(tries=leases.SUSPICIOUS_TRIES))
    taken = [await shop.leases.take() for _ in range(3)]
    assert [[one.file_id for one in batch.leases] for batch in taken if batch] == [
        [file] for file in files
    ]


async def test_files_claimed_together_are_small_together(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BYTES", 10)
    store = await shop.store()
    await shop.attach(store, *[await shop.upload("x" * size) for size in (6, 4, 1, 30, 2)])
    sizes = []
    while batch := await shop.leases.take():
        sizes.append([one.bytes for one in batch.leases])
    assert sizes == [[6, 4], [1], [30], [2]]


async def test_tenants_and_their_stores_take_turns(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "FILES", 16)
    globex = Reader.of("globex")
    busy = [await shop.store(), await shop.store()]
    quiet = await shop.store(globex)
    for store in busy:
        await shop.attach(store, *[await shop.upload("text") for _ in range(40)])
    await shop.attach(quiet, await shop.upload("text", globex), reader=globex)
    turns = []
    while batch := await shop.leases.take():
        turns.append(batch.store_id)
        shop.clock.now += 1
    assert turns.index(quiet) <= 1
    turns.remove(quiet)
    assert turns == busy * 3


async def test_two_processes_share_files_and_index_none_twice(
    shop: Workshop, database: Database
) -> None:
    other = Workshop(database, shop)
    store = await shop.store()
    await shop.attach(store, *[await shop.upload(f"text {n}") for n in range(100)])
    await asyncio.gather(shop.index(), other.index())
    assert len(shop.parser.cuts) + len(other.parser.cuts) == 100
    assert len(shop.versions()) == 100
    assert await shop.consistency.check() == []


async def test_file_of_a_process_that_died_goes_to_another_after_its_lease(
    shop: Workshop, database: Database
) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    assert await Workshop(database, shop).leases.take() is not None
    assert await shop.index() == 0
    shop.clock.now += leases.LEASE_S + 1
    assert await shop.index() == 1
    assert (await shop.file(store, file)).status == "completed"


async def test_process_that_lost_its_lease_publishes_nothing(
    shop: Workshop, database: Database
) -> None:
    slow = Workshop(database, shop)
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    taken_over: list[int] = []

    async def take_over() -> None:
        shop.clock.now += leases.LEASE_S + 1
        await shop.recovery.settle()
        taken_over.append(await shop.index())

    batch = await slow.leases.take()
    assert batch is not None
    await take_over()
    await slow.ingestion._index(batch)  # As if it had been asleep right after its lease.
    await shop.recovery.sweep()
    assert taken_over == [1]
    assert len(shop.versions()) == 1
    assert await shop.consistency.check() == []


@pytest.mark.parametrize("what", ["file", "store", "detach"])
async def test_what_is_deleted_while_it_is_indexed_stays_deleted(shop: Workshop, what: str) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    batch = await shop.leases.take()
    assert batch is not None
    if what == "file":
        await shop.files.delete(READER, file)
    elif what == "detach":
        await shop.store_files.detach(READER, store, file)
    else:
        await shop.stores.delete(READER, store)
    await shop.ingestion._index(batch)
    await shop.recovery.settle()
    assert shop.versions() == set()
    assert await shop.consistency.check() == []
    assert await noted(shop) == 0


async def test_lease_is_renewed_while_a_file_takes_long(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    batch = await shop.leases.take()
    assert batch is not None
    for _ in range(5):
        shop.clock.now += leases.LEASE_S / 2
        await shop.leases.renew(batch)
        await shop.recovery.settle()
    assert await Workshop(shop.database, shop).leases.take() is None
    await shop.ingestion._index(batch)
    assert (await shop.file(store, file)).status == "completed"


async def test_lease_is_renewed_on_after_an_error_that_nobody_expects(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewals, enough = 0, asyncio.Event()

    async def renew(_bundle: object) -> None:
        nonlocal renewals
        renewals += 1
        if renewals == 1:
            raise TypeError
        enough.set()

    async def chunks(*_: object, **_named: object) -> list[object]:
        await enough.wait()
        raise FileUnreadable("enough")

    monkeypatch.setattr(shop.leases, "lease_s", 0.03)
    monkeypatch.setattr(shop.leases, "renew", renew)
    monkeypatch.setattr(shop.parser, "chunks", chunks)
    await shop.attach(await shop.store(), await shop.upload("text"))
    loops = shop.ingestion.loops(workers=1, poll_s=0.05)
    for loop in loops:
        loop.start()
    async with asyncio.timeout(20):
        await enough.wait()
    await close_all(loops)
    assert renewals > 1


async def test_vectors_go_into_the_generation_that_is_being_built_too(shop: Workshop) -> None:
    store = await shop.store()
    reembedding = Reembedding(shop.database, shop.vectors, shop.embedders, clock=shop.clock)
    await reembedding.begin(store, "new")
    await shop.attach(store, await shop.upload("one\ntwo"))
    await shop.index()
    assert [len(rows) for rows in shop.vectors.kept.values()] == [2, 2]
    await reembedding.run(store)
    await reembedding.swap(store)
    await shop.attach(store, await shop.upload("three"))
    await shop.index()
    assert await shop.consistency.check() == []


async def test_swap_during_indexing_lets_the_file_be_indexed_again(shop: Workshop) -> None:
    store = await shop.store()
    await shop.attach(store, await shop.upload("text"))
    batch = await shop.leases.take()
    assert batch is not None
    reembedding = Reembedding(
        shop.database, shop.vectors, shop.embedders, clock=shop.clock, patience_s=0
    )
    await reembedding.begin(store, "new")
    shop.clock.now += leases.LEASE_S + 1  # The writer counts as dead, so that nobody waits for it.
    await reembedding.run(store)
    await reembedding.swap(store)
    await shop.ingestion._index(batch)
    shop.clock.now += leases.LEASE_S + 1
    await shop.recovery.settle()
    await shop.index()
    await shop.recovery.settle()
    assert await shop.consistency.check() == []


async def test_store_whose_embedder_is_another_now_waits(shop: Workshop) -> None:
    store, file = await shop.store(), await shop.upload("text")
    await shop.attach(store, file)
    shop.embedders["old"] = served(WordEmbedder(9))
    await shop.index()
    assert (await shop.file(store, file)).status == "in_progress"
    assert shop.versions() == set()


async def test_store_whose_embedder_is_not_served_does_not_hold_up_others(shop: Workshop) -> None:
    lost = await shop.store()
    await shop.attach(lost, await shop.upload("text"))
    shop.embedders["old"] = served(WordEmbedder(1), "r2")
    other = (await shop.stores.create(READER, name="n", metadata={}, embedding_model="new")).id
    file = await shop.upload("text")
    await shop.attach(other, file)
    await shop.index()
    assert (await shop.file(other, file)).status == "completed"


async def test_keeps_indexing_until_it_is_stopped_through_failures(shop: Workshop) -> None:
    store = await shop.store()
    embedder = shop.embedders["old"].embedder
    assert isinstance(embedder, WordEmbedder)
    fails = iter([True, False])

    def fail_once() -> None:
        if next(fails, False):
            shop.clock.now += 60
            raise EngineUnavailable("x")

    embedder.before = fail_once
    loops = shop.ingestion.loops(workers=2, poll_s=0.05)
    for loop in loops:
        loop.start()
    files = [await shop.upload(f"text {n}") for n in range(30)]
    await shop.attach(store, *files)
    for loop in loops:
        loop.wake()
    async with asyncio.timeout(60):
        while (await shop.stores.get(READER, store)).counts.completed < 30:
            shop.clock.now += 1
            await asyncio.sleep(0.05)
    await close_all(loops)
    await shop.recovery.settle()
    assert await shop.consistency.check() == []
