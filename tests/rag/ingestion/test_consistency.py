"""The consistency check on both databases: it reports each injected fault, and nothing else."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from sqlalchemy import delete, insert, select, text, update

from rag.errors import IndexUnavailable
from rag.index.protocols import Collection, VectorKey
from rag.ingestion.consistency import Consistency
from rag.reembedding.reembedding import Reembedding
from rag.schema import ChunkRow, File, IndexGeneration, IndexIntent, StoreFile, VectorStore
from serving.storage.database import Database
from tests.rag.finding import note
from tests.rag.workshop import READER, Workshop


class Place:
    """A consistent store with one file of two chunks, and its names everywhere."""

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop

    async def make(self) -> None:
        shop = self.shop
        await shop.open()
        self.store, self.file = await shop.store(), await shop.upload("apple\npear")
        await shop.attach(self.store, self.file)
        await shop.index()
        (self.version,) = shop.versions()
        ((self.collection, self.vectors),) = shop.vectors.kept.items()
        async with shop.database.session() as session:
            self.number = (await session.scalars(select(VectorStore.number))).one()
            self.row = (await session.scalars(select(StoreFile.id))).one()

    async def findings(self) -> list[str]:
        return await self.shop.consistency.check()

    async def execute(self, *statements) -> None:  # type: ignore[no-untyped-def]
        async with self.shop.database.transaction() as session:
            for statement in statements:
                await session.execute(statement)

    def chunk(self, version: str, position: int) -> dict[str, object]:
        return {
            "key": f"{version}:{position}", "store_number": self.number,
            "store_file_id": self.row, "version": version, "position": position,
            "tokens": 1, "text": "plum",
        }  # fmt: skip


@pytest.fixture
async def place(database: Database) -> Place:
    place = Place(Workshop(database))
    await place.make()
    return place


async def test_healthy_store_has_no_findings(place: Place) -> None:
    assert await place.findings() == []


async def test_collection_that_is_gone_is_missing_and_cannot_be_read(place: Place) -> None:
    class Gone(type(place.shop.vectors)):  # type: ignore[misc]
        async def ids(self, collection: Collection):  # type: ignore[no-untyped-def]
            if collection not in self.kept:
                raise IndexUnavailable("x")
            yield list(self.kept[collection])

    vectors = Gone()
    shop = place.shop
    check = Consistency(shop.database, vectors, shop.text, shop.texts)
    assert await check.check() == [
        f"collection {place.collection.name} is missing",
        f"collection {place.collection.name} cannot be read",
    ]


async def test_collection_of_no_store_is_told(place: Place) -> None:
    await place.shop.vectors.create(Collection("acme", "gen_lost"))
    assert await place.findings() == ["collection gen_lost belongs to no vector store"]


async def test_vectors_that_are_missing_are_told_with_how_many_are_there(place: Place) -> None:
    del place.vectors[f"{place.version}:1:0"]
    assert await place.findings() == [f"file version {place.version} has vectors for 1 of 2 chunks"]
    place.vectors.clear()
    assert await place.findings() == [f"file version {place.version} has vectors for 0 of 2 chunks"]


async def test_vectors_that_are_missing_where_nobody_searches_yet_are_not_told(
    place: Place,
) -> None:
    reembedding = Reembedding(
        place.shop.database, place.shop.vectors, place.shop.embedders, clock=place.shop.clock
    )
    await reembedding.begin(place.store, "new")
    assert await place.findings() == []


async def test_vectors_of_no_file_are_told(place: Place) -> None:
    keys = [VectorKey("file-lost", "lost", 0, 0)]
    await place.shop.vectors.write(place.collection, keys, np.ones((1, 16), np.float32))
    assert await place.findings() == ["vectors of version lost belong to no file"]


async def test_chunks_that_nobody_publishes_are_told(place: Place) -> None:
    await place.execute(insert(ChunkRow).values(place.chunk("lost", 0)))
    async with place.shop.database.transaction() as session:
        await place.shop.text.add(session, place.number, "lost")
    assert await place.findings() == ["chunks of version lost belong to no file"]


async def test_completed_file_without_chunks_is_told(place: Place) -> None:
    async with place.shop.database.transaction() as session:
        await place.shop.text.remove(session, place.number, place.version)
        await session.execute(delete(ChunkRow))
        await session.execute(update(StoreFile).values(version=None))
    place.vectors.clear()
    assert await place.findings() == [
        f"file {place.row} of a vector store is completed and has no chunks"
    ]


async def test_full_text_that_lacks_a_chunk_is_told(place: Place) -> None:
    async with place.shop.database.transaction() as session:
        await place.shop.text.remove(session, place.number, place.version)
    assert await place.findings() == [f"full text of store {place.number} differs in 2"]


async def test_full_text_that_is_gone_is_told(place: Place) -> None:
    await place.execute(text(f"DROP TABLE lexical_{place.number}"))
    assert await place.findings() == [f"full text of store {place.number} is missing"]


async def test_full_text_of_no_store_is_told(place: Place) -> None:
    async with place.shop.database.transaction() as session:
        await place.shop.text.create(session, 999)
    assert await place.findings() == ["full text 999 has no store"]


async def test_content_that_is_gone_is_told(place: Place) -> None:
    place.shop.texts.kept.clear()
    assert await place.findings() == [f"the content of {place.file} is missing"]


async def test_content_of_a_file_that_is_another_tenants_does_not_count(place: Place) -> None:
    texts = place.shop.texts.kept
    texts["globex", place.file] = texts.pop(("acme", place.file))
    assert await place.findings() == [f"the content of {place.file} is missing"]


async def test_several_findings_are_all_told(place: Place) -> None:
    place.vectors.clear()
    place.shop.texts.kept.clear()
    assert len(await place.findings()) == 2


async def test_file_that_is_being_written_is_no_finding(place: Place) -> None:
    shop = place.shop
    await shop.attach(place.store, await shop.upload("plum"))
    batch = await shop.leases.take()
    assert batch is not None
    assert await place.findings() == []
    await shop.ingestion._write(batch.targets[0], await shop.ingestion._cut(batch))
    assert await place.findings() == []
    await shop.leases.release(batch, wait_s=0)
    assert await place.findings() == [], "they wait to be erased"
    await place.execute(delete(IndexIntent))
    assert len(await place.findings()) == 1, "without a note they are lost"


async def test_what_was_deleted_is_no_finding_before_it_is_erased(place: Place) -> None:
    await place.shop.files.delete(READER, place.file)
    assert await place.findings() == []
    await place.shop.stores.delete(READER, place.store)
    assert await place.findings() == []


async def test_collection_in_the_making_is_no_finding(place: Place) -> None:
    await note(place.shop, "drop", "gen_new", until=place.shop.clock.now + 10)
    await place.shop.vectors.create(Collection("acme", "gen_new"))
    assert await place.findings() == []


async def test_bytes_of_an_upload_that_is_going_on_are_no_finding(place: Place) -> None:
    place.shop.texts.kept["acme", "file-upload"] = "x"
    assert await place.findings() == []


async def test_store_that_has_expired_is_no_finding(place: Place) -> None:
    await place.shop.stores.modify(READER, place.store, expires_after_days=1)
    place.shop.clock.now += 86_401
    assert await place.findings() == []
    await place.shop.recovery.settle()
    assert await place.findings() == []


async def test_store_without_vectors_that_kept_its_full_text_is_told(place: Place) -> None:
    await place.shop.stores.delete(READER, place.store)
    await place.shop.recovery.settle()
    empty = await place.shop.store()
    async with place.shop.database.transaction() as session:
        generation = (await session.scalars(select(IndexGeneration))).one()
        collection = Collection("acme", generation.collection)
        await session.delete(generation)
        number = await session.scalar(select(VectorStore.number).where(VectorStore.id == empty))
    await place.shop.vectors.drop(collection)
    assert await place.findings() == [f"full text {number} has no store"]


async def test_changes_during_the_check_are_no_findings(place: Place) -> None:
    """Stores and files change between any two queries of the check."""
    shop = place.shop
    stop = asyncio.Event()

    async def change() -> None:
        while not stop.is_set():
            store, file = await shop.store(), await shop.upload("apple")
            await shop.attach(store, file)
            await shop.index()
            await shop.stores.delete(READER, store)
            await shop.files.delete(READER, file)
            await shop.recovery.settle()

    changing = asyncio.create_task(change())
    findings = [finding for _ in range(15) for finding in await place.findings()]
    stop.set()
    await changing
    assert findings == []


async def test_index_that_does_not_answer_is_not_a_finding_but_an_error(place: Place) -> None:
    async def collections() -> list[Collection]:
        raise IndexUnavailable("x")

    place.shop.vectors.collections = collections  # type: ignore[method-assign]
    with pytest.raises(IndexUnavailable):
        await place.findings()


async def test_file_that_is_gone_from_sql_takes_its_finding_along(place: Place) -> None:
    place.shop.texts.kept.clear()
    await place.execute(delete(File))
    assert await place.findings() == [
        f"vectors of version {place.version} belong to no file",
        f"full text of store {place.number} differs in 2",
    ]
