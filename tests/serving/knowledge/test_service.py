"""`KnowledgeService` on embedded Chroma: searches continue during re-embedding and swaps."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select, update

from models.catalog import ModelSpec
from models.embedding.embedder import Embedder
from rag.errors import EmbedderMismatch, IndexUnavailable
from rag.index.embedder_versions import ServedEmbedder
from rag.schema import IndexIntent, StoreFile
from rag.search.fusion import Weights
from serving.access.tenants import TenantStore
from serving.domain.principal import Principal
from serving.domain.search_call import SearchCall
from serving.retrieval.query_vectors import QueryVectors
from serving.retrieval.searching import Searching
from serving.storage.database import Database
from serving.storage.migrate import upgrade
from tests.rag.finding import eventually
from tests.serving.knowledge.workbench import NEW, OLD, READER, Workbench, embedder
from tests.serving.wired import CharacterCounter, Wire

SPECS = tuple(
    ModelSpec(
        id=name, task="embed", engine="sentence-transformers", source="/nowhere",
        dimension=dimension, context_tokens=64,
    )
    for name, dimension in (("old", 16), ("new", 24))
)  # fmt: skip
BOTH = {"old": OLD, "new": NEW}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

OTHERS = [embedder(9), embedder(1, revision="r2"), embedder(9, 24)]
"""Embedders that may replace another one under its name."""


class Opened:
    """Services on one directory, one after another."""

    def __init__(self, home: Path, database: Database) -> None:
        self.home, self.database = home, database

    @asynccontextmanager
    async def running(
        self, embedders: Mapping[str, ServedEmbedder] = BOTH, **retrieval: object
    ) -> AsyncIterator[Workbench]:
        bench = Workbench.open(self.home, self.database, embedders, **retrieval)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(bench.service.close)
            yield bench


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Opened]:
    url = f"sqlite:///{tmp_path}/ringfence.db"
    await asyncio.to_thread(upgrade, url)
    database = Database.open(url)
    await TenantStore(database).create("acme")
    yield Opened(tmp_path, database)
    await database.close()


def document(number: int) -> str:
    """A text about one subject only."""
    return f"{NUMBERS[number % 10]} topic{number} about topic{number} " * 3


@dataclass
class Searchers:
    """Search a store continuously, and record wrong results."""

    searching: Searching
    store: str
    there: dict[str, int] = field(default_factory=dict)
    searches: int = 0
    wrong: list[str] = field(default_factory=list)
    stopped: bool = False

    async def search(self) -> None:
        while not self.stopped:
            for file, number in list(self.there.items()):
                await self._search(file, number)

    async def _search(self, file: str, number: int) -> None:
        call = SearchCall(
            request_id=secrets.token_hex(4), store_ids=[self.store],
            principal=Principal("acme", "k1", "ci", "inference", None),
            queries=[f"topic{number}"],
        )  # fmt: skip
        try:
            found = await self.searching.search(call)
        except Exception as error:  # noqa: BLE001  None may fail, for whatever reason.
            self.wrong.append(repr(error))
            return
        self.searches += 1
        best = found.passages[0] if found.passages else None
        if best is None or best.file_id != file or best.text != document(number).strip():
            self.wrong.append(f"{file} is not the best of {found.passages}")
        elif best.cosine is None or best.cosine < 0.5:
            self.wrong.append(f"{best.cosine} is a cosine of another model's vectors")


def searching(bench: Workbench, wire: Wire) -> Searching:
    """Search as a gateway does: look up the generation, embed the question, call the service."""
    embedders: dict[str, Embedder] = {name: one.embedder for name, one in bench.embedders.items()}
    _, admission_parts, _ = wire(SPECS, {}, embedders)
    counters = {name: CharacterCounter() for name in embedders}
    vectors = QueryVectors(admission_parts.attempts, embedders, counters)
    return Searching(bench.stores, bench.service, vectors)


async def test_no_search_fails_while_files_come_and_vectors_are_swapped_and_swapped_back(
    place: Opened, wire: Wire
) -> None:
    async with place.running() as bench:
        store = await bench.store()
        searchers = Searchers(searching(bench, wire), store)

        async def fill(first: int, last: int) -> None:
            files = {await bench.add(store, document(n)): n for n in range(first, last)}
            await bench.indexed(store, last)
            searchers.there |= files

        await fill(0, 3)
        tasks = [asyncio.create_task(searchers.search()) for _ in range(8)]
        await fill(3, 8)
        for change in ("new", "rollback", "new"):
            before = await bench.generation(store)
            if change == "rollback":
                await bench.service.rollback(store)
            else:
                await bench.service.reembed(store, change, force=False)
            await fill(len(searchers.there), len(searchers.there) + 1)
            assert await bench.reaches(store, "swapped", "failed") == "swapped"
            assert (await bench.generation(store)).id != before.id
        searchers.stopped = True
        await asyncio.gather(*tasks)
        assert searchers.wrong == []
        assert searchers.searches > 100
        assert await bench.service.check() == []


async def test_store_is_searched_by_meaning_and_by_words(place: Opened) -> None:
    async with place.running() as bench:
        store = await bench.store()
        files = [await bench.add(store, document(number)) for number in range(3)]
        await bench.indexed(store, 3)
        generation = await bench.generation(store)
        for weights in (Weights(embedding=1, text=0), Weights(embedding=0, text=1)):
            found = await bench.search(generation, "topic1", weights)
            assert found[0].file_id == files[1]


async def test_search_in_vectors_that_were_given_up_meanwhile_is_no_empty_answer(
    place: Opened,
) -> None:
    async with place.running() as bench:
        store = await bench.store()
        await bench.add(store, document(1))
        await bench.indexed(store, 1)
        before = await bench.generation(store)
        for model in ("new", "old"):
            await bench.service.reembed(store, model, force=False)
            assert await bench.reaches(store, "swapped", "failed") == "swapped"
        with pytest.raises(IndexUnavailable):
            await bench.search(before, "topic1")
        assert await bench.search(await bench.generation(store), "topic1")


async def test_search_that_finds_nothing_is_an_answer(place: Opened) -> None:
    async with place.running() as bench:
        assert await bench.search(await bench.generation(await bench.store()), "topic1") == []


@pytest.mark.parametrize("other", OTHERS)
async def test_other_embedder_under_the_same_name_is_refused_with_what_mends_it(
    place: Opened, other: ServedEmbedder
) -> None:
    async with place.running({"old": OLD}) as bench:
        store = await bench.store()
        await bench.add(store, document(1))
        await bench.indexed(store, 1)
    async with place.running({"old": other}) as bench:
        command = f"`ringfence reembed --store {store} --model old`"
        with pytest.raises(EmbedderMismatch) as refused:
            await bench.search(await bench.generation(store), "topic1")
        assert command in refused.value.message
        (facts,) = await bench.service.stores()
        assert facts.mismatch == refused.value.message
        late = await bench.add(store, document(2))
        await asyncio.sleep(1.5)
        assert (await bench.store_files.get(READER, store, late)).status == "in_progress"


@pytest.mark.parametrize("other", OTHERS)
async def test_operator_mends_a_store_whose_embedder_is_another(
    place: Opened, other: ServedEmbedder
) -> None:
    async with place.running({"old": OLD}) as bench:
        store = await bench.store()
        file = await bench.add(store, document(1))
        await bench.indexed(store, 1)
    async with place.running({"old": other}) as bench:
        await bench.service.reembed(store, "old", force=False)
        assert await bench.reaches(store, "swapped", "failed") == "swapped"
        found = await bench.search(await bench.generation(store), "topic1")
        assert [one.file_id for one in found] == [file]


@pytest.mark.parametrize("other", OTHERS)
async def test_store_whose_embedder_is_another_is_mended_by_itself_where_that_is_wanted(
    place: Opened, other: ServedEmbedder
) -> None:
    async with place.running({"old": OLD}) as bench:
        store = await bench.store()
        file = await bench.add(store, document(1))
        await bench.indexed(store, 1)
        before = await bench.generation(store)
    async with place.running({"old": other}, drift={"reembed": True}) as bench:
        late = await bench.add(store, document(2))
        assert await bench.reaches(store, "swapped", "failed") == "swapped"
        assert (await bench.generation(store)).id != before.id
        async with place.database.transaction() as session:  # It waits for a minute, by our clock.
            await session.execute(update(StoreFile).values(lease_until=0.0))
        await bench.indexed(store, 2)
        for number, expected in ((1, file), (2, late)):
            found = await bench.search(await bench.generation(store), f"topic{number}")
            assert found[0].file_id == expected
        assert await bench.service.check() == []


async def test_work_that_was_cut_off_by_an_end_is_gone_on_with_by_the_next_service(
    place: Opened,
) -> None:
    async with place.running() as bench:
        store = await bench.store()
        for number in range(5):
            await bench.add(store, document(number))
        await bench.service.reembed(store, "new", force=False)
    async with place.database.transaction() as session:  # Its leases end in a minute.
        await session.execute(update(StoreFile).values(lease_until=0.0))
        writing = update(IndexIntent).where(IndexIntent.kind == "write")
        await session.execute(writing.values(until=0.0))
    async with place.running() as bench:
        await bench.indexed(store, 5)

        async def swapped() -> bool:
            return (await bench.generation(store)).model == "new"

        await eventually(swapped, within_s=60)
        assert await bench.service.check() == []
        async with place.database.session() as session:
            assert set(await session.scalars(select(StoreFile.status))) == {"completed"}
