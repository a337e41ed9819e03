"""Re-embedding jobs: begun, reported, resumed after a restart, refused, forced, rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from models.engine import EngineUnavailable
from rag.errors import IndexUnavailable, NotThere, Refused
from rag.reembedding.reembedding import Reembedding
from serving.knowledge import reembedding_jobs
from serving.knowledge.curation import Phase, ReembeddingFacts
from serving.knowledge.reembedding_jobs import ReembeddingJobs
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from serving.storage.migrate import upgrade
from tests.rag.finding import MEANING, eventually, found
from tests.rag.store_with_vectors import WordEmbedder, served
from tests.rag.workshop import READER, Workshop

WORDS = ("apple", "pear", "plum", "fig")


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workshop]:
    """A database without data; failed calls are retried at once."""
    monkeypatch.setattr(reembedding_jobs, "AGAIN_S", 0.05)
    url = f"sqlite:///{tmp_path}/ringfence.db"
    await asyncio.to_thread(upgrade, url)
    database = Database.open(url)
    shop = Workshop(database)
    await shop.open()
    yield shop
    await database.close()


@pytest.fixture
async def store(shop: Workshop) -> str:
    """A store with a file for each word."""
    made = await shop.store()
    for word in WORDS:
        await shop.attach(made, await shop.upload(word))
    await shop.index()
    return made


@asynccontextmanager
async def jobs_of(shop: Workshop) -> AsyncIterator[ReembeddingJobs]:
    """The jobs of one process."""
    reembedding = Reembedding(
        shop.database, shop.vectors, shop.embedders, clock=shop.clock, patience_s=0
    )
    jobs = ReembeddingJobs(reembedding, shop.database)
    try:
        yield jobs
    finally:
        await jobs.close()


async def ended(jobs: ReembeddingJobs, store: str, phase: Phase = "swapped") -> ReembeddingFacts:
    """Return the final report, whose phase must be this one."""
    seen: list[ReembeddingFacts] = []

    async def there() -> bool:
        seen.append(await jobs.facts(store))
        return seen[-1].phase in ("swapped", "failed")

    await eventually(there)
    assert seen[-1].phase == phase, seen[-1].error
    return seen[-1]


async def model_of(shop: Workshop, store: str) -> str:
    (generation,) = await shop.stores.generations(READER, [store])
    return generation.model


def hold(embedder: object) -> asyncio.Event:
    """Make an embedder fail as long as the event is not set."""
    assert isinstance(embedder, WordEmbedder)
    go_on = asyncio.Event()

    def wait() -> None:
        if not go_on.is_set():
            raise EngineUnavailable("It does not answer.")

    embedder.before = wait
    return go_on


async def worthless(shop: Workshop, store: str) -> None:
    """Make `new` return meaningless vectors for more texts than a comparison samples."""
    await shop.attach(store, await shop.upload("\n".join(f"line{n}" for n in range(60))))
    await shop.index()

    class Noise(WordEmbedder):
        calls = 0

        def _vector(self, text: str):  # type: ignore[no-untyped-def]
            del text
            Noise.calls += 1
            return super()._vector(f"{Noise.calls}")

    shop.embedders["new"] = served(Noise(5, 24))


async def test_store_is_searched_by_its_new_vectors_at_the_end(shop: Workshop, store: str) -> None:
    async with jobs_of(shop) as jobs:
        begun = await jobs.begin(store, "new", force=False)
        assert (begun.phase, begun.model, begun.total) == ("running", "new", len(WORDS))
        facts = await ended(jobs, store)
    assert (facts.model, facts.done, facts.total, facts.error) == ("new", 4, 4, None)
    assert facts.recall == {
        "queries": 4, "found_before": 1.0, "found_after": 1.0, "overlap": 1.0
    }  # fmt: skip
    assert await model_of(shop, store) == "new"
    assert len(await found(shop, store, "apple", MEANING)) == 1


async def test_nothing_is_told_of_a_store_that_is_not_embedded_anew(
    shop: Workshop, store: str
) -> None:
    async with jobs_of(shop) as jobs:
        assert await jobs.facts(store) == ReembeddingFacts("none")
        with pytest.raises(NotThere):
            await jobs.facts("vs_none")


async def test_job_that_is_begun_again_goes_on(shop: Workshop, store: str) -> None:
    go_on = asyncio.Event()
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        go_on = hold(shop.embedders["new"].embedder)
        assert (await jobs.begin(store, "new", force=False)).phase == "running"
        go_on.set()
        await ended(jobs, store)
    assert len(shop.vectors.kept) == 2


async def test_job_of_a_process_that_ended_is_gone_on_with_by_the_next(
    shop: Workshop, store: str
) -> None:
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        go_on = hold(shop.embedders["new"].embedder)
    assert await model_of(shop, store) == "old"
    go_on.set()
    async with jobs_of(shop) as jobs:
        assert (await jobs.facts(store)).phase == "running", "another process might be at it"
        await jobs.resume()
        await ended(jobs, store)
    assert await model_of(shop, store) == "new"


@pytest.mark.parametrize("error", [IndexUnavailable("x"), DatabaseUnavailable("x")])
async def test_job_waits_for_what_does_not_answer_and_says_so(
    shop: Workshop, store: str, error: Exception
) -> None:
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        down = True

        def fail() -> None:
            if down:
                raise error

        shop.vectors.before = fail

        async def waits() -> bool:
            facts = await jobs.facts(store)
            return facts.phase == "running" and type(error).__name__ in (facts.error or "")

        await eventually(waits)
        down = False
        assert (await ended(jobs, store)).error is None


async def test_new_vectors_that_find_nothing_are_not_searched(shop: Workshop, store: str) -> None:
    await worthless(shop, store)
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        facts = await ended(jobs, store, "failed")
    assert facts.recall is not None
    share = facts.recall["found_after"]
    assert share is not None
    assert share < 0.5
    assert f"find {share:.1%} of a sample" in (facts.error or "")
    assert await model_of(shop, store) == "old"


async def test_new_vectors_that_find_nothing_are_searched_if_that_is_forced(
    shop: Workshop, store: str
) -> None:
    await worthless(shop, store)
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        await ended(jobs, store, "failed")
        await jobs.begin(store, "new", force=True)
        facts = await ended(jobs, store)
    assert facts.error is None
    assert await model_of(shop, store) == "new"


async def test_rollback_searches_the_previous_vectors_with_what_came_since(
    shop: Workshop, store: str
) -> None:
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        await ended(jobs, store)
        late = await shop.upload("late")
        await shop.attach(store, late)
        await shop.index()
        assert (await jobs.rollback(store)).model == "old"
        await ended(jobs, store)
    assert await model_of(shop, store) == "old"
    assert await found(shop, store, "late", MEANING) == [late]
    assert await shop.consistency.check() == []


async def test_rollback_is_refused_where_there_is_nothing_to_go_back_to(
    shop: Workshop, store: str
) -> None:
    async with jobs_of(shop) as jobs:
        with pytest.raises(Refused):
            await jobs.rollback(store)


async def test_other_model_is_refused_while_one_is_at_work(shop: Workshop, store: str) -> None:
    shop.embedders["third"] = served(WordEmbedder(3, 8))
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        hold(shop.embedders["new"].embedder)
        with pytest.raises(Refused, match="'new' are already being made"):
            await jobs.begin(store, "third", force=False)


async def test_other_model_gives_up_the_first_if_that_is_forced(shop: Workshop, store: str) -> None:
    shop.embedders["third"] = served(WordEmbedder(3, 8))
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        hold(shop.embedders["new"].embedder)
        assert (await jobs.begin(store, "third", force=True)).model == "third"
        await ended(jobs, store)
    await shop.recovery.settle()
    assert await model_of(shop, store) == "third"
    assert len(shop.vectors.kept) == 2, "the first one's are gone"
    assert await shop.consistency.check() == []


@pytest.mark.parametrize("force", [False, True])
async def test_model_that_is_not_served_is_refused(
    shop: Workshop, store: str, *, force: bool
) -> None:
    async with jobs_of(shop) as jobs:
        with pytest.raises(Refused, match="No embedder 'x' is served"):
            await jobs.begin(store, "x", force=force)
        assert (await jobs.facts(store)).phase == "none"


async def test_same_model_is_refused_unless_it_is_forced(shop: Workshop, store: str) -> None:
    async with jobs_of(shop) as jobs:
        with pytest.raises(Refused, match="already"):
            await jobs.begin(store, "old", force=False)
        await jobs.begin(store, "old", force=True)
        await ended(jobs, store)


async def test_job_of_a_store_that_is_deleted_ends(shop: Workshop, store: str) -> None:
    async with jobs_of(shop) as jobs:
        await jobs.begin(store, "new", force=False)
        hold(shop.embedders["new"].embedder)
        await shop.stores.delete(READER, store)

        async def gone() -> bool:
            return not any(loop.runs for loop in jobs._running.values())

        await eventually(gone)
        with pytest.raises(NotThere):
            await jobs.facts(store)
    await shop.recovery.settle()
    await shop.recovery.sweep()
    assert shop.vectors.kept == {}
