"""Re-embedding on both databases, with concurrent searches, ingestion, deletion and crashes."""

from __future__ import annotations

import asyncio
import random

import pytest
from sqlalchemy import select

from rag.errors import NotThere, Refused
from rag.index.protocols import Collection
from rag.reembedding.generations import generations
from rag.reembedding.recall_comparison import RecallComparison
from rag.reembedding.reembedding import Reembedding
from rag.schema import IndexIntent
from serving.storage.database import Database
from tests.rag.store_with_vectors import STORE, TENANT, Shelf, WordEmbedder, served

GOOD = RecallComparison(1, 1.0, 1.0, 1.0)


class Killed(BaseException):
    """The process crashes here."""


def texts(number: int) -> list[str]:
    return [f"chunk {number} part {part} of this document" for part in range(3)]


@pytest.fixture
async def shelf(database: Database) -> Shelf:
    made = Shelf(database)
    await made.make()
    return made


def over(shelf: Shelf, patience_s: float = 0.0) -> Reembedding:
    return Reembedding(shelf.database, shelf.vectors, shelf.embedders, patience_s=patience_s)


async def done(shelf: Shelf) -> tuple[Reembedding, str]:
    reembedding = over(shelf)
    generation = await reembedding.begin(STORE, "new")
    await reembedding.run(STORE)
    return reembedding, generation


async def test_swap_makes_the_new_vectors_active_and_keeps_the_old(shelf: Shelf) -> None:
    for number in range(5):
        await shelf.ingest(texts(number))
    reembedding, generation = await done(shelf)
    comparison = await reembedding.compare(STORE)
    assert (comparison.queries, comparison.acceptable) == (15, True)
    assert await reembedding.swap(STORE, comparison) == generation
    assert await shelf.states() == {"gen_old": "previous", generation: "active"}
    assert await shelf.findings(generation) == []


async def test_begin_refuses_what_would_change_nothing_unless_forced(shelf: Shelf) -> None:
    with pytest.raises(Refused, match="already"):
        await over(shelf).begin(STORE, "old")
    shelf.embedders["old"] = served(WordEmbedder(1, noise=1.0))
    await over(shelf).begin(STORE, "old")
    await over(shelf).abandon(STORE)
    shelf.embedders["old"] = served(WordEmbedder(1))
    await over(shelf).begin(STORE, "old", force=True)


async def test_begin_refuses_a_second_build_an_unknown_model_and_store(shelf: Shelf) -> None:
    reembedding = over(shelf)
    await reembedding.begin(STORE, "new")
    with pytest.raises(Refused, match="are already being made"):
        await reembedding.begin(STORE, "new")
    with pytest.raises(Refused, match=r"No embedder 'x' is served\. Available: new, old"):
        await reembedding.begin(STORE, "x")
    with pytest.raises(NotThere):
        await reembedding.begin("vs_none", "new")


async def test_swap_refuses_what_is_not_complete_even_if_forced(shelf: Shelf) -> None:
    reembedding = over(shelf)
    await reembedding.begin(STORE, "new")
    with pytest.raises(Refused, match="not complete"):
        await reembedding.swap(STORE, GOOD, force=True)


async def test_swap_refuses_vectors_that_find_less_unless_forced(shelf: Shelf) -> None:
    reembedding, generation = await done(shelf)
    worse = RecallComparison(100, 0.99, 0.5, 0.3)
    with pytest.raises(Refused, match=r"50\.0%"):
        await reembedding.swap(STORE, worse)
    assert await reembedding.swap(STORE, worse, force=True) == generation


async def test_comparison_sees_an_embedder_that_finds_nothing(shelf: Shelf) -> None:
    for number in range(20):
        await shelf.ingest(texts(number))
    reembedding, _ = await done(shelf)
    assert (await reembedding.compare(STORE)).acceptable
    shelf.embedders["new"] = served(WordEmbedder(7, 24))
    lost = await reembedding.compare(STORE, sample=30)
    assert lost.queries == 30
    assert not lost.acceptable


async def test_rollback_brings_the_previous_vectors_up_to_date_and_searches_them(
    shelf: Shelf,
) -> None:
    first = await shelf.ingest(texts(1))
    await shelf.ingest(texts(2))
    reembedding, generation = await done(shelf)
    await reembedding.swap(STORE, GOOD)
    await shelf.ingest(texts(3))
    await shelf.remove(first)
    assert await reembedding.go_back(STORE) == "old"
    await reembedding.run(STORE)
    assert await reembedding.swap(STORE) == "gen_old"
    assert await shelf.states() == {"gen_old": "active", generation: "previous"}
    assert await shelf.findings("gen_old") == []


async def test_rollback_refuses_when_there_is_nothing_to_go_back_to(shelf: Shelf) -> None:
    with pytest.raises(Refused, match="no previous"):
        await over(shelf).go_back(STORE)


async def test_an_older_previous_generation_goes_by_an_intent(shelf: Shelf) -> None:
    reembedding, _ = await done(shelf)
    await reembedding.swap(STORE, GOOD)
    await reembedding.begin(STORE, "old")
    await reembedding.run(STORE)
    await reembedding.swap(STORE, GOOD)
    async with shelf.database.session() as session:
        drops = list(
            await session.scalars(select(IndexIntent.subject).where(IndexIntent.kind == "drop"))
        )
    assert drops == ["gen_old"]
    assert sorted((await shelf.states()).values()) == ["active", "previous"]


async def test_file_deleted_between_reading_and_writing_does_not_come_back(shelf: Shelf) -> None:
    file_id = await shelf.ingest(texts(1))
    reembedding = over(shelf)
    generation = await reembedding.begin(STORE, "new")
    embed = shelf.embedders["new"].embedder.embed
    deleted = False

    async def deleting(inputs):
        nonlocal deleted
        if not deleted and inputs[0].startswith("chunk"):
            deleted = True
            await shelf.remove(file_id)
        return await embed(inputs)

    shelf.embedders["new"].embedder.embed = deleting  # type: ignore[method-assign]
    await reembedding.run(STORE)
    assert deleted
    assert await shelf.findings(generation) == []


async def test_ingestion_that_began_before_is_waited_for(shelf: Shelf) -> None:
    reembedding = over(shelf, patience_s=10)
    started, go_on = asyncio.Event(), asyncio.Event()
    write = shelf.vectors.write

    async def slowly(*arguments, **named):
        if arguments[0].name == "gen_old":
            started.set()
            await go_on.wait()
        await write(*arguments, **named)

    shelf.vectors.write = slowly  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        group.create_task(shelf.ingest(texts(1)))
        await started.wait()
        generation = await reembedding.begin(STORE, "new")
        run = group.create_task(reembedding.run(STORE))
        await asyncio.sleep(0.2)
        assert not run.done()
        go_on.set()
    assert await shelf.findings(generation) == []


@pytest.mark.parametrize("where", ["vectors", "embedder"])
async def test_kill_at_any_step_is_gone_on_from(shelf: Shelf, where: str) -> None:
    for number in range(3):
        await shelf.ingest(texts(number))
    reembedding = over(shelf)
    generation = await reembedding.begin(STORE, "new")
    killed = shelf.vectors if where == "vectors" else shelf.embedders["new"].embedder
    steps = 0
    for last in range(100):
        left = last

        def step() -> None:
            nonlocal left, steps
            left -= 1
            if left < 0:
                steps += 1
                raise Killed

        killed.before = step  # type: ignore[union-attr]
        try:
            await reembedding.run(STORE)
        except Killed:
            continue
        break
    killed.before = lambda: None  # type: ignore[union-attr]
    assert steps > 1
    assert [f for f in await shelf.findings(generation) if f != "intent"] == []


async def test_searches_ingestion_and_deletion_go_on_meanwhile(shelf: Shelf) -> None:
    files = [await shelf.ingest(texts(number)) for number in range(30)]
    chance, stop, searches = random.Random(1), asyncio.Event(), 0  # noqa: S311

    async def search() -> None:
        nonlocal searches
        while not stop.is_set():
            async with shelf.database.session() as session:
                active = (await generations(session, STORE)).active
            assert active is not None
            vector = await shelf.embedders[active.model].embedder.embed(["chunk 3 part"])
            where = Collection(TENANT, active.collection)
            assert await shelf.vectors.search(where, vector.vectors[0], limit=5)
            searches += 1
            await asyncio.sleep(0.002)

    async def change() -> None:
        for number in range(20):
            files.append(await shelf.ingest(texts(100 + number)))
            await shelf.remove(files.pop(chance.randrange(len(files))))

    async def reembed() -> str:
        reembedding = over(shelf, patience_s=10)
        generation = await reembedding.begin(STORE, "new")
        await reembedding.run(STORE)
        await reembedding.swap(STORE, await reembedding.compare(STORE, sample=20), force=True)
        return generation

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        searching = [group.create_task(search()) for _ in range(3)]
        changing, made = group.create_task(change()), group.create_task(reembed())
        await asyncio.wait((changing, made))
        stop.set()
        await asyncio.wait(searching)
    assert searches > 20
    assert await shelf.findings(made.result()) == []
