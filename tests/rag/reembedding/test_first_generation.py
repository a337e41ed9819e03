"""New vector stores: created completely with their collection, or not at all."""

from __future__ import annotations

import pytest

from models.engine import EngineError
from rag.errors import IndexUnavailable, NotThere, Refused, TooMany
from rag.index.embedder_versions import CANARIES
from rag.index.protocols import Collection
from rag.reembedding.generations import ALL
from rag.schema import IndexGeneration, StoreFile, VectorStore, VectorStoreAccess
from rag.stores.store_records import FileCounts
from serving.storage.database import Database
from tests.rag.library import ACME, LEGAL, SALES, Place

EMPTY = FileCounts(in_progress=0, completed=0, failed=0, cancelled=0, total=0)


@pytest.fixture
async def place(database: Database) -> Place:
    return await Place.open(database)


async def nothing_made(place: Place) -> bool:
    tables = (VectorStore, VectorStoreAccess, IndexGeneration, StoreFile)
    counts = [await place.count(table) for table in tables]
    return not (any(counts) or await place.tables())


@pytest.mark.parametrize(("model", "dimension"), [(None, 16), ("small", 16), ("large", 24)])
async def test_new_store_has_a_collection_a_table_and_a_pinned_embedder(
    place: Place, model: str | None, dimension: int
) -> None:
    made = await place.stores.create(ACME, name="", metadata={}, embedding_model=model)
    async with place.database.session() as session:
        generation = await session.get_one(IndexGeneration, await place.collection(made.id))
    assert (generation.state, generation.model) == ("active", model or "small")
    assert (generation.dimension, generation.reembedded_to) == (dimension, ALL)
    assert len(generation.canaries) == len(CANARIES) * dimension * 4
    assert set(place.vectors.kept) == {Collection("acme", generation.collection)}
    assert await place.tables() == [1]
    assert await place.intents() == set()
    assert (made.status, made.counts) == ("completed", EMPTY)


async def test_embedder_that_is_not_served_is_refused_with_those_that_are(place: Place) -> None:
    with pytest.raises(Refused, match=r"'huge' is served\. Available: large, small") as caught:
        await place.stores.create(ACME, name="", metadata={}, embedding_model="huge")
    assert caught.value.param == "embedding_model"
    assert await nothing_made(place)


@pytest.mark.parametrize("file_id", ["file-theirs", "file-expired", "file-none"])
async def test_store_is_not_made_with_a_file_that_is_not_there(place: Place, file_id: str) -> None:
    await place.upload("file-1")
    await place.upload("file-theirs", SALES)
    await place.upload("file-expired", expires_after_s=1)
    place.clock.now += 2
    with pytest.raises(NotThere) as caught:
        await place.store("file-1", file_id, reader=LEGAL)
    assert (caught.value.message, caught.value.param) == ("No such file.", "file_ids")
    assert await nothing_made(place)
    assert place.vectors.kept == {}


async def test_collection_that_is_being_made_is_dropped_unless_its_store_comes_to_be(
    place: Place,
) -> None:
    seen: list[set[tuple[str, str]]] = []
    create = place.vectors.create

    async def watched(collection: Collection) -> None:
        await create(collection)
        seen.append(await place.intents())

    place.vectors.create = watched  # type: ignore[method-assign]
    store = await place.store()
    assert seen == [{("drop", await place.collection(store))}]
    assert await place.intents() == set()


async def test_index_that_does_not_answer_leaves_an_intent_and_no_store(place: Place) -> None:
    def fail() -> None:
        raise IndexUnavailable("Later.")

    place.vectors.before = fail
    with pytest.raises(IndexUnavailable):
        await place.store()
    assert [kind for kind, _ in await place.intents()] == ["drop"]
    assert await nothing_made(place)


async def test_store_whose_collection_was_dropped_meanwhile_is_not_made(place: Place) -> None:
    create = place.vectors.create

    async def slow(collection: Collection) -> None:
        await create(collection)
        await place.forget_intents()

    place.vectors.create = slow  # type: ignore[method-assign]
    with pytest.raises(IndexUnavailable):
        await place.store()
    assert await nothing_made(place)


async def test_file_that_is_deleted_while_its_store_is_made_leaves_the_intent(place: Place) -> None:
    await place.upload("file-1")
    create = place.vectors.create

    async def overtaken(collection: Collection) -> None:
        await create(collection)
        await place.files.delete(ACME, "file-1")

    place.vectors.create = overtaken  # type: ignore[method-assign]
    with pytest.raises(NotThere):
        await place.store("file-1")
    assert sorted(kind for kind, _ in await place.intents()) == ["blob", "drop"]
    assert await nothing_made(place)


async def test_embedder_that_fails_leaves_nothing(place: Place) -> None:
    def fail() -> None:
        raise EngineError("No.")

    place.small.before = fail
    with pytest.raises(EngineError):
        await place.store()
    assert await place.intents() == set()
    assert await nothing_made(place)


async def test_store_takes_no_more_files_than_allowed(database: Database) -> None:
    place = await Place.open(database, max_files=2)
    names = await place.upload_many(3)
    with pytest.raises(TooMany):
        await place.store(*names)
    assert await nothing_made(place)
    await place.store(*names[:2])
