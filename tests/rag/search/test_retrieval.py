"""Searches on real SQL, with indexes that return given chunks regardless of permissions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, event, insert, update

from models.embedding.reranker import Reranker
from rag.errors import IndexUnavailable
from rag.index.protocols import Collection, FileFilter, TextHit, VectorHit
from rag.schema import (
    ChunkRow,
    File,
    FileAccess,
    IndexGeneration,
    StoreFile,
    VectorStore,
    VectorStoreAccess,
)
from rag.search.fusion import Weights
from rag.search.retrieval import Query, Retriever, SearchResult
from rag.stores.access_lists import Reader
from rag.stores.visibility import FEW
from serving.storage.database import Database
from serving.storage.schema import TenantRow

NOW = 1_000
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
VECTOR = np.ones(4, np.float32) / 2


@dataclass(frozen=True)
class Generation:
    id: str
    store_id: str
    collection: Collection


@dataclass
class Vectors:
    """Returns the given chunks of each collection, and records the filters."""

    hits: dict[str, list[VectorHit]] = field(default_factory=dict)
    asked: list[FileFilter | None] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    after_s: float = 0.0

    async def search(
        self, collection: Collection, vector: Any, *, limit: int, files: FileFilter | None = None
    ) -> list[VectorHit]:
        del vector
        self.asked.append(files)
        self.began.set()
        await asyncio.sleep(self.after_s)
        return self.hits.get(collection.name, [])[:limit]


@dataclass
class Words:
    """Returns the given chunks of each store, and records the filters."""

    hits: dict[int, list[int]] = field(default_factory=dict)
    asked: list[FileFilter | None] = field(default_factory=list)
    after_s: float = 0.0

    async def search(
        self, session: Any, number: int, query: str, *, limit: int, files: FileFilter | None = None
    ) -> list[TextHit]:
        del session, query
        self.asked.append(files)
        await asyncio.sleep(self.after_s)
        return [TextHit(chunk, 1.0) for chunk in self.hits.get(number, [])][:limit]


class Longest(Reranker):
    """A reranker that prefers the chunk with the highest number."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        del question
        self.asked.append(texts)
        return [int(text.split()[-1]) / 1000 for text in texts]


class World:
    """Tenant `acme` with given stores. Chunks are numbered in order of creation."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.vectors = Vectors()
        self.words = Words()
        self.chunks = 0
        self.now = NOW

    async def store(self, number: int, *, tenant: str = "acme") -> Generation:
        generation = Generation(f"gen_{number}", f"vs_{number}", Collection(tenant, f"c{number}"))
        async with self.database.transaction() as session:
            session.add(
                VectorStore(
                    number=number,
                    id=generation.store_id,
                    tenant=tenant,
                    name="",
                    details={},
                    created_at=1,
                    last_active_at=1,
                )
            )
            await session.flush()
            session.add(VectorStoreAccess(store_id=generation.store_id, entry="tenant"))
            session.add(
                IndexGeneration(
                    id=generation.id,
                    store_id=generation.store_id,
                    state="active",
                    collection=f"c{number}",
                    model="m",
                    revision="r",
                    dimension=4,
                    canaries=b"",
                    created_at=1,
                )
            )
        return generation

    async def file(
        self,
        store: Generation,
        name: str,
        *,
        access: Sequence[str] = ("tenant",),
        tenant: str = "acme",
        attributes: dict[str, Any] | None = None,
        **fields: Any,
    ) -> int:
        """Add a file; return the id of its one chunk, whose key is `<name>:0`."""
        self.chunks += 1
        async with self.database.transaction() as session:
            session.add(_file_row(name, tenant, fields.pop("expires_at", None)))
            await session.flush()
            session.add_all([FileAccess(file_id=name, entry=entry) for entry in access])
            session.add(row := _store_file_row(store.store_id, name, attributes or {}, fields))
            await session.flush()
            session.add(_chunk_row(self.chunks, row.id, name))
        return self.chunks

    def retriever(self, reranker: Any = None, **options: Any) -> Retriever:
        return Retriever(
            self.database,
            self.vectors,  # type: ignore[arg-type]
            self.words,  # type: ignore[arg-type]
            reranker,
            clock=lambda: self.now,
            **options,
        )

    async def find(self, query: Query, reranker: Any = None, **options: Any) -> SearchResult:
        """Run both steps of a search."""
        retriever = self.retriever(reranker, **options)
        lexical = await retriever.lexical(query.question) if query.weights.text else []
        return await retriever.search(replace(query, lexical=lexical))

    async def search(self, query: Query, reranker: Any = None) -> list[int]:
        found = await self.find(query, reranker)
        return [passage.chunk_id for passage in found.passages]


def _file_row(name: str, tenant: str, expires_at: int | None) -> File:
    return File(
        id=name,
        tenant=tenant,
        filename=f"{name}.txt",
        purpose="user_data",
        media_type="text/plain",
        bytes=1,
        sha256="0",
        privacy="scrubbed",
        created_at=1,
        expires_at=expires_at,
    )


def _store_file_row(
    store_id: str, name: str, attributes: dict[str, Any], fields: dict[str, Any]
) -> StoreFile:
    row = {
        "status": "completed",
        "version": name,
        "strategy": "auto",
        "chunk_tokens": 800,
        "overlap_tokens": 400,
        "usage_bytes": 1,
        "tries": 1,
        "lease_until": 0.0,
        "created_at": 1,
    }
    return StoreFile(store_id=store_id, file_id=name, attributes=attributes, **row | fields)


def _chunk_row(chunk_id: int, store_file_id: int, name: str) -> ChunkRow:
    return ChunkRow(
        id=chunk_id,
        key=f"{name}:0",
        store_number=1,
        store_file_id=store_file_id,
        version=name,
        position=0,
        page=7,
        tokens=3,
        text=f"text of {chunk_id}",
    )


def near(*names: str) -> list[VectorHit]:
    """Return hits in that order, with cosines descending from 0.9."""
    return [VectorHit(f"{name}:0", 0.9 - i / 100) for i, name in enumerate(names)]


def query(*generations: Generation, **fields: Any) -> Query:
    given: dict[str, Any] = {"reader": Reader.of("acme"), "text": "why", "limit": 10}
    return Query(generations=generations, vector=VECTOR, **given | fields)  # type: ignore[arg-type]


@pytest.fixture
async def world(database: Database) -> World:
    async with database.transaction() as session:
        await session.execute(
            insert(TenantRow),
            [{"name": name, "created_at": LONG_AGO} for name in ("acme", "other")],
        )
    return World(database)


async def test_search_fuses_both_indexes_by_places(world: World) -> None:
    store = await world.store(1)
    a, b, c = [await world.file(store, name) for name in "abc"]
    world.vectors.hits = {"c1": near("a", "b")}
    world.words.hits = {1: [b, c]}
    assert await world.search(query(store)) == [b, a, c]


async def test_passage_tells_where_it_is_from(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a", attributes={"year": 1958})
    world.vectors.hits, world.words.hits = {"c1": near("a")}, {1: [chunk]}
    found = await world.find(query(store))
    [passage] = found.passages
    assert (passage.store_id, passage.file_id, passage.filename) == ("vs_1", "a", "a.txt")
    assert (passage.page, passage.position, passage.chunk_id) == (7, 0, chunk)
    assert (passage.attributes, passage.privacy) == ({"year": 1958}, "scrubbed")
    assert (passage.text, passage.score, passage.cosine) == (f"text of {chunk}", 1.0, 0.9)
    assert found.best_cosine == 0.9


async def test_search_of_an_empty_store_finds_nothing(world: World) -> None:
    assert await world.find(query(await world.store(1))) == SearchResult([], None)


async def test_files_that_may_not_be_read_are_left_out_of_both_indexes_and_of_the_result(
    world: World,
) -> None:
    store = await world.store(1)
    secret = await world.file(store, "secret", access=["group:board"])
    nobodys = await world.file(store, "nobodys", access=[])
    mine = await world.file(store, "mine", access=["user:ann"])
    world.vectors.hits = {"c1": near("secret", "nobodys", "mine")}
    world.words.hits = {1: [secret, nobodys, mine]}
    asked = query(store, reader=Reader.of("acme", ["staff"], "ann"))
    found = await world.find(asked)
    assert [passage.chunk_id for passage in found.passages] == [mine]
    assert found.passages[0].score == 1.0
    assert found.best_cosine == pytest.approx(0.88)
    for files in (*world.vectors.asked, *world.words.asked):
        assert files is not None
        assert files.but
        assert set(files.files) == {"secret", "nobodys"}


async def test_search_without_anything_hidden_is_not_filtered(world: World) -> None:
    store = await world.store(1)
    await world.file(store, "a")
    await world.search(query(store))
    assert world.vectors.asked == [None]
    assert world.words.asked == [None]


@pytest.mark.parametrize(("shown", "hidden"), [(2, FEW + 1), (FEW + 2, FEW + 1)])
async def test_search_with_much_hidden_is_told_the_shorter_list(
    world: World, shown: int, hidden: int
) -> None:
    store = await world.store(1)
    for i in range(shown):
        await world.file(store, f"shown-{i}")
    for i in range(hidden):
        await world.file(store, f"hidden-{i}", access=["group:board"])
    await world.search(query(store))
    [files] = world.words.asked
    assert files is not None
    assert files.but == (hidden < shown)
    assert len(files.files) == min(shown, hidden)
    assert all(name.startswith("hidden" if files.but else "shown") for name in files.files)


async def test_store_with_nothing_to_find_is_not_searched(world: World) -> None:
    store = await world.store(1)
    for i in range(FEW + 1):
        await world.file(store, f"hidden-{i}", access=["group:board"])
    assert await world.search(query(store)) == []
    assert world.vectors.asked == []


async def test_filter_hides_what_it_is_not_true_of(world: World) -> None:
    store = await world.store(1)
    old, new = await world.file(store, "old"), await world.file(store, "new")
    world.vectors.hits = {"c1": near("old", "new")}
    world.words.hits = {1: [old, new]}
    found = await world.search(query(store, filters=StoreFile.file_id == "new"))
    assert found == [new]
    assert world.words.asked == [FileFilter(["old"], but=True)]


async def test_filter_that_knows_no_answer_hides(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    world.words.hits = {1: [chunk]}
    assert await world.search(query(store, filters=StoreFile.error_code == "x")) == []
    assert world.words.asked == [FileFilter(["a"], but=True)]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "in_progress"},
        {"status": "failed"},
        {"status": "cancelled"},
        {"version": None},
        {"version": "newer"},
        {"expires_at": NOW},
    ],
)
async def test_chunks_that_are_not_published_are_not_found(
    world: World, fields: dict[str, Any]
) -> None:
    store = await world.store(1)
    chunk, other = await world.file(store, "a", **fields), await world.file(store, "b")
    world.vectors.hits, world.words.hits = {"c1": near("a", "b")}, {1: [chunk, other]}
    found = await world.find(query(store))
    assert [(passage.chunk_id, passage.score) for passage in found.passages] == [(other, 1.0)]


@pytest.mark.parametrize(("used", "found"), [(NOW - 86_399, True), (NOW - 86_400, False)])
async def test_store_that_has_expired_is_not_searched(
    world: World, used: int, *, found: bool
) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    world.vectors.hits, world.words.hits = {"c1": near("a")}, {1: [chunk]}
    async with world.database.transaction() as session:
        await session.execute(update(VectorStore).values(expires_after_days=1, last_active_at=used))
    assert await world.search(query(store)) == ([chunk] if found else [])
    assert bool(world.vectors.asked) == found


async def test_file_expires_between_two_searches(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a", expires_at=NOW + 10)
    world.vectors.hits = {"c1": near("a")}
    assert await world.search(query(store)) == [chunk]
    world.now += 10
    assert await world.search(query(store)) == []


async def test_readers_of_one_store_find_their_own_in_turn(world: World) -> None:
    store = await world.store(1)
    chunks = {name: await world.file(store, name, access=[f"user:{name}"]) for name in ("a", "b")}
    world.vectors.hits, world.words.hits = {"c1": near(*chunks)}, {1: list(chunks.values())}
    for name in "abab":
        asked = query(store, reader=Reader.of("acme", user=name))
        assert await world.search(asked) == [chunks[name]]


async def test_vectors_without_a_chunk_are_not_found(world: World) -> None:
    store = await world.store(1)
    world.vectors.hits = {"c1": near("gone")}
    assert await world.find(query(store)) == SearchResult([], None)


async def test_store_of_another_tenant_is_not_searched(world: World) -> None:
    store = await world.store(1, tenant="other")
    chunk = await world.file(store, "a", tenant="other")
    world.vectors.hits, world.words.hits = {"c1": near("a")}, {1: [chunk]}
    assert await world.search(query(store)) == []
    assert world.vectors.asked == []


async def test_hit_of_a_store_that_is_not_searched_is_not_found(world: World) -> None:
    mine, another = await world.store(1), await world.store(2)
    await world.file(another, "a")
    world.vectors.hits = {"c1": near("a")}
    assert await world.search(query(mine)) == []


async def test_generation_that_is_gone_is_told_from_one_without_files(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    world.words.hits = {1: [chunk]}
    async with world.database.transaction() as session:
        await session.execute(delete(IndexGeneration))
    with pytest.raises(IndexUnavailable):
        await world.search(query(store))


async def test_full_text_is_not_searched_in_a_generation_that_is_gone(world: World) -> None:
    store = await world.store(1)
    await world.file(store, "a")
    async with world.database.transaction() as session:
        await session.execute(delete(IndexGeneration))
    with pytest.raises(IndexUnavailable):
        await world.retriever().lexical(query(store).question)
    assert world.words.asked == []


async def test_chunks_that_a_search_brings_along_show_nothing_that_is_not_for_its_reader(
    world: World,
) -> None:
    mine, another, foreign = (
        await world.store(1), await world.store(2), await world.store(3, tenant="other"),
    )  # fmt: skip
    brought = [
        await world.file(mine, "hidden", access=["group:board"]),
        await world.file(mine, "in-progress", status="in_progress"),
        await world.file(mine, "filtered"),
        await world.file(another, "not-asked"),
        await world.file(foreign, "foreign", tenant="other"),
        12_345,
        shown := await world.file(mine, "shown"),
    ]
    asked = query(mine, filters=StoreFile.file_id != "filtered", lexical=[brought])
    found = await world.retriever().search(asked)
    assert [(one.chunk_id, one.score) for one in found.passages] == [(shown, 0.5)]


async def test_right_that_is_revoked_after_full_text_was_searched_counts(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    world.words.hits = {1: [chunk]}
    lexical = await world.retriever().lexical(query(store).question)
    assert lexical == [[chunk]]
    async with world.database.transaction() as session:
        await session.execute(update(FileAccess).values(entry="group:board"))
    assert await world.retriever().search(query(store, lexical=lexical)) == SearchResult([], None)


async def test_right_that_is_revoked_during_a_search_counts(world: World) -> None:
    store = await world.store(1)
    await world.file(store, "a")
    world.vectors.hits = {"c1": near("a")}
    world.vectors.after_s = 0.3
    search = asyncio.create_task(world.search(query(store)))
    await world.vectors.began.wait()
    async with world.database.transaction() as session:
        await session.execute(update(FileAccess).values(entry="group:board"))
    assert await search == []
    assert world.vectors.asked == [None]


async def test_several_stores_are_ranked_together(world: World) -> None:
    first, second = await world.store(1), await world.store(2)
    a, b, c = (
        await world.file(first, "a"),
        await world.file(second, "b"),
        await world.file(second, "c"),
    )
    world.vectors.hits = {
        "c1": [VectorHit("a:0", 0.5)],
        "c2": [VectorHit("b:0", 0.9), VectorHit("c:0", 0.1)],
    }
    world.words.hits = {1: [a], 2: [b, c]}
    found = await world.find(query(first, second))
    assert [passage.chunk_id for passage in found.passages] == [b, a, c]
    assert found.passages[0].score == 1.0


@pytest.mark.parametrize(("weights", "expected"), [(Weights(1, 0), "a"), (Weights(0, 1), "b")])
async def test_search_of_weight_0_is_left_out(
    world: World, weights: Weights, expected: str
) -> None:
    store = await world.store(1)
    await world.file(store, "a")
    chunk = await world.file(store, "b")
    world.vectors.hits, world.words.hits = {"c1": near("a")}, {1: [chunk]}
    found = await world.find(query(store, weights=weights))
    assert [(passage.file_id, passage.score) for passage in found.passages] == [(expected, 1.0)]
    assert len(world.vectors.asked) == (expected == "a")
    assert len(world.words.asked) == (expected == "b")


async def test_threshold_and_limit_hold(world: World) -> None:
    store = await world.store(1)
    names = [f"f{i}" for i in range(5)]
    chunks = [await world.file(store, name) for name in names]
    world.vectors.hits, world.words.hits = {"c1": near(*names)}, {1: chunks}
    assert await world.search(query(store, limit=2)) == chunks[:2]
    assert await world.search(query(store, threshold=0.97)) == chunks[:2]


async def test_reranker_looks_at_the_best_again(world: World) -> None:
    store = await world.store(1)
    names = [f"f{i:02}" for i in range(40)]
    chunks = [await world.file(store, name) for name in names]
    world.vectors.hits = {"c1": near(*names)}
    reranker = Longest()
    found = await world.find(query(store, threshold=0.029), reranker)
    assert [passage.chunk_id for passage in found.passages] == [chunks[29], chunks[28]]
    assert [passage.score for passage in found.passages] == [0.03, 0.029]
    assert len(reranker.asked[0]) == 30


async def test_reranker_is_left_out_where_the_question_says_so(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    world.words.hits = {1: [chunk]}
    reranker = Longest()
    assert await world.search(query(store, rerank=False), reranker) == [chunk]
    assert reranker.asked == []


async def test_search_that_takes_too_long_is_given_up(world: World) -> None:
    store = await world.store(1)
    await world.file(store, "a")
    world.vectors.after_s = 5
    with pytest.raises(IndexUnavailable):
        await world.find(query(store), timeout_s=0.05)


async def test_full_text_that_takes_too_long_is_given_up(world: World) -> None:
    store = await world.store(1)
    world.words.after_s = 5
    with pytest.raises(IndexUnavailable):
        await world.retriever(timeout_s=0.05).lexical(query(store).question)


async def test_search_asks_sql_a_few_times_only(world: World) -> None:
    store = await world.store(1)
    chunk = await world.file(store, "a")
    await world.file(store, "b", access=["group:board"])
    world.vectors.hits, world.words.hits = {"c1": near("a")}, {1: [chunk]}
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    engine = world.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await world.search(query(store))
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) == 3  # Full text first, and what its index asks.


@pytest.mark.parametrize(("limit", "depth"), [(1, 100), (10, 100), (70, 140), (100, 200)])
def test_candidates_are_twice_what_is_asked_for_within_bounds(limit: int, depth: int) -> None:
    asked = query(Generation("g", "s", Collection("acme", "c")))
    assert replace(asked, limit=limit).depth == depth
