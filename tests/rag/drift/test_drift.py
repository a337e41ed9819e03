"""Drift: injected changes raise alerts, equal samples do not; and storage of sums."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import func, select

from rag.drift.drift import Drift
from rag.drift.query_sums import QuerySums
from rag.drift.report import DriftReport, DriftThresholds, Observed, Staleness, report
from rag.drift.sums import Baseline, Sums
from rag.errors import IndexUnavailable
from rag.schema import DriftDay, DriftReportRow
from serving.storage.database import Database
from tests.rag.store_with_vectors import STORE, Shelf, WordEmbedder, served

DAY = 86_400
NOW = 1_800_000_000


def topic(seed: int, size: int, *, spread: float = 1.0) -> NDArray[np.float32]:
    """Draw unit vectors around a few centres, like embeddings of one topic."""
    centres = np.random.default_rng(seed // 1000).normal(size=(5, 64))
    drawn = np.random.default_rng(seed)
    vectors = centres[drawn.integers(5, size=size)] + spread * drawn.normal(size=(size, 64))
    return unit(vectors)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


def sums(vectors: NDArray[np.float32], baseline: Baseline, cosine: float = 0.6) -> Sums:
    total = Sums.zero(vectors.shape[1])
    for vector in vectors:
        total.add(vector, baseline, cosine)
    return total


def reported(
    documents: NDArray[np.float32],
    earlier: NDArray[np.float32],
    recent: NDArray[np.float32],
    cosines: tuple[float, float] = (0.6, 0.6),
) -> DriftReport:
    baseline = Baseline.of("gen_1", documents)
    now, before = sums(recent, baseline, cosines[1]), sums(earlier, baseline, cosines[0])
    observed = Observed(baseline, now, before, {"d": now}, Staleness(1, 1.0, 0.0), 1.0)
    thresholds = DriftThresholds()
    return report(observed, store_id=STORE, generation="gen_1", now=NOW, thresholds=thresholds)


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.full)])
def test_two_samples_of_the_same_distribution_hardly_ever_alarm(count: int) -> None:
    seeds = range(0, 1000 * count, 1000)
    alarms = [reported(topic(s, 300), topic(s + 1, 100), topic(s + 2, 100)).alerts for s in seeds]
    assert sum(map(bool, alarms)) < count / 100


def test_another_topic_is_always_caught() -> None:
    for seed in range(0, 30_000, 1000):
        other = topic(900_000 + seed, 100)
        alerts = reported(topic(seed, 300), topic(seed + 1, 200), other).alerts
        assert {"psi", "centroid_shift"} & set(alerts)


def test_queries_that_are_unlike_documents_do_not_alarm_by_that_alone() -> None:
    made = reported(topic(1000, 300), topic(8000, 300), topic(8001, 300))
    assert made.psi_documents is not None
    assert made.psi_documents > 0.1
    assert made.alerts == []


def test_searches_that_find_nothing_near_alarm() -> None:
    same = topic(1, 300)
    made = reported(same, topic(2, 200), topic(3, 200), (0.6, 0.1))
    assert (made.low_share, made.low_share_earlier, made.alerts) == (1.0, 0.0, ["low_share"])
    assert made.score_quantiles == {"p10": 0.15, "p50": 0.15, "p90": 0.15}


def test_measure_with_too_few_samples_says_so() -> None:
    made = reported(topic(1, 300), topic(2, 99), topic(3, 300))
    assert made.psi is None
    assert made.missing["psi"] == "too few samples: 99 of 100"
    assert made.psi_documents is not None


def test_sums_and_baselines_are_the_same_after_being_stored() -> None:
    baseline = Baseline.of("gen_1", topic(1, 100))
    again = Baseline.from_facts("gen_1", baseline.facts())
    assert again.facts() == baseline.facts()
    vector = topic(2, 1)[0]
    assert again.bins(vector) == baseline.bins(vector)


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def shelf(database: Database) -> Shelf:
    made = Shelf(database)
    await made.make()
    await made.ingest([f"word{n} in a document" for n in range(120)], created_at=NOW - DAY)
    return made


def drift(shelf: Shelf, sums: QuerySums, clock: Clock, told: list[DriftReport]) -> Drift:
    return Drift(
        shelf.database, shelf.vectors, shelf.embedders, sums=sums, clock=clock, event=told.append
    )


def search(sums: QuerySums, seed: int, count: int = 150) -> None:
    centre = np.random.default_rng(seed).normal(size=16)
    for vector in unit(centre + np.random.default_rng(count).normal(size=(count, 16))):
        sums.add("gen_old", vector, 0.5)


async def test_searches_are_summed_by_day_and_writer_and_reported(shelf: Shelf) -> None:
    clock, told = Clock(), list[DriftReport]()
    counted = QuerySums(clock)
    kept, other = (drift(shelf, counted, clock, told) for _ in range(2))
    search(counted, 1, 1)  # Not counted: it only makes the generation known.
    await kept.flush()
    for day in range(20):
        clock.now = NOW + day * DAY
        search(counted, 1, 100)
        await (kept if day % 2 else other).flush()
    made = await kept.report(STORE)
    assert (made.queries, made.earlier_queries, made.alerts) == (700, 1300, [])
    assert len(made.psi_by_day) == 7
    assert (made.staleness.files, made.staleness.newest_age_days) == (1, 20.0)
    search(counted, 1, 50)
    await kept.flush()
    async with shelf.database.session() as session:
        assert await session.scalar(select(func.sum(DriftDay.searches))) == 2050


async def test_another_topic_of_searches_raises_an_event_and_is_kept(shelf: Shelf) -> None:
    clock, told = Clock(), list[DriftReport]()
    counted = QuerySums(clock)
    kept = drift(shelf, counted, clock, told)
    search(counted, 1, 1)
    await kept.flush()
    search(counted, 1)
    await kept.flush()
    clock.now += 10 * DAY
    search(counted, 2)
    await kept.flush()
    made = await kept.report_searched()
    assert told == made
    assert await kept.report_searched() == []
    assert "psi" in told[0].alerts
    async with shelf.database.session() as session:
        assert list(await session.scalars(select(DriftReportRow.alerts))) == [told[0].alerts]


@pytest.mark.parametrize("changed", [WordEmbedder(9), WordEmbedder(1, noise=0.5)])
async def test_another_embedder_of_the_same_name_is_caught(
    shelf: Shelf, changed: WordEmbedder
) -> None:
    kept = drift(shelf, QuerySums(), Clock(), [])
    assert (await kept.report(STORE)).alerts == []
    shelf.embedders["old"] = served(changed)
    made = await kept.report(STORE)
    assert made.canary_cosine is not None
    assert made.canary_cosine < 0.999
    assert made.alerts == ["canary_cosine"]


async def test_embedder_that_is_not_served_is_said_to_be_missing(shelf: Shelf) -> None:
    del shelf.embedders["old"]
    made = await drift(shelf, QuerySums(), Clock(), []).report(STORE)
    assert (made.canary_cosine, made.alerts) == (None, [])
    assert "not served" in made.missing["canary_cosine"]


async def test_reports_are_made_on_schedule_and_go_on_after_an_index_that_does_not_answer(
    shelf: Shelf,
) -> None:
    counted, told, failures = QuerySums(), asyncio.Queue[DriftReport](), 1

    def failing() -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise IndexUnavailable("It does not answer.")

    shelf.vectors.before = failing
    shelf.embedders["old"] = served(WordEmbedder(9))
    kept = Drift(
        shelf.database, shelf.vectors, shelf.embedders, sums=counted, event=told.put_nowait
    )
    search(counted, 1, 1)
    (loop,) = kept.loops(interval_s=0.01)
    loop.start()
    async with asyncio.timeout(60):
        while counted.unknown:  # noqa: ASYNC110  A set of its, not an event.
            await asyncio.sleep(0.01)
        search(counted, 1)
        made = await told.get()
    await loop.close()
    assert (made.alerts, failures < 0) == (["canary_cosine"], True)
