"""Drift of stores: daily sums over searches, and scheduled reports on them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.background import BackgroundLoop
from rag.database import SqlDatabase
from rag.drift.query_sums import QuerySums, day_of
from rag.drift.report import DriftReport, DriftThresholds, Observed, Staleness, report
from rag.drift.sums import Baseline, Sums
from rag.errors import NotThere
from rag.index.embedder_versions import ServedEmbedder, canary_cosine
from rag.index.protocols import Collection, VectorIndex
from rag.reembedding import generations as rows
from rag.schema import DriftBaseline, DriftDay, DriftReportRow, IndexGeneration, StoreFile

SAMPLE = 2000
"""Document vectors in a baseline."""

RECENT_DAYS = 7
REFERENCE_DAYS = 28
KEPT_DAYS = 90
FLUSH_S = 60.0
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class _Subject:
    """The generation that is searched."""

    id: str
    store_id: str
    model: str
    revision: str
    canaries: bytes
    collection: Collection


class Drift:
    """Stores the sums of searches, and reports drift.

    Args:
        database: holds sums and reports.
        vectors: the index from which documents are sampled.
        embedders: the embedders that are served, by model.
        sums: the sums that searches add to.
        thresholds: values beyond which a measure raises an alert.
        event: called with each report that has alerts.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        vectors: VectorIndex,
        embedders: Mapping[str, ServedEmbedder],
        *,
        sums: QuerySums,
        thresholds: DriftThresholds | None = None,
        event: Callable[[DriftReport], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._embedders = embedders
        self._sums = sums
        self._thresholds = thresholds or DriftThresholds()
        self._event = event
        self._clock = clock
        self._writer = uuid.uuid4().hex
        self._searched: set[str] = set()

    async def report(self, store_id: str) -> DriftReport:
        """Measure how far a store has drifted.

        Raises:
            NotThere: the store does not exist or has no vectors.
            IndexUnavailable, EngineError: the index or the embedder failed.
        """
        await self.flush()
        subject = await self._subject(store_id)
        observed = await self._observed(subject)
        return report(
            observed, store_id=store_id, generation=subject.id, now=int(self._clock()),
            thresholds=self._thresholds,
        )  # fmt: skip

    async def flush(self) -> None:
        """Store the counted sums, and make baselines for generations that were searched.

        Raises:
            IndexUnavailable: no baseline could be made; no sums are lost.
        """
        await self._store_sums()
        for generation_id in sorted(self._sums.unknown):
            await self._make_known(generation_id)

    def loops(self, *, interval_s: float) -> list[BackgroundLoop]:
        """The loop that stores sums, and reports on searched stores every `interval_s` seconds."""
        due = self._clock() + interval_s

        async def step() -> None:
            nonlocal due
            await self.flush()
            if self._clock() >= due:
                due = self._clock() + interval_s
                await self.report_searched()

        return [BackgroundLoop("drift", step, every_s=min(FLUSH_S, interval_s))]

    async def report_searched(self) -> list[DriftReport]:
        """Report on stores that were searched since the last call, and store the reports.

        Raises:
            IndexUnavailable, EngineError: the next call reports the rest.
        """
        made = []
        for store_id in await self._searched_stores():
            try:
                made.append(await self.report(store_id))
            except NotThere:
                continue
            await self._keep(made[-1])
            if made[-1].alerts:
                self._event(made[-1])
        self._searched.clear()
        return made

    async def _store_sums(self) -> None:
        taken = self._sums.take()
        if not taken:
            return
        try:
            async with self._database.transaction() as session:
                living = await _living(session, {generation for generation, _ in taken})
                for (generation, day), sums in taken.items():
                    if generation in living:
                        await self._add(session, generation, day, sums)
        except BaseException:
            self._sums.put_back(taken)
            raise
        for gone in {generation for generation, _ in taken} - living:
            self._sums.forget(gone)
        self._searched |= living

    async def _add(self, session: AsyncSession, generation: str, day: str, sums: Sums) -> None:
        row = await session.get(DriftDay, (generation, day, self._writer))
        if row is None:
            row = DriftDay(generation_id=generation, day=day, writer=self._writer)
            session.add(row)
        else:
            sums = Sums.from_facts(row.facts) + sums
        row.searches, row.facts = sums.count, sums.facts()

    async def _make_known(self, generation_id: str) -> None:
        async with self._database.session() as session:
            store_id = await session.scalar(
                select(IndexGeneration.store_id).where(IndexGeneration.id == generation_id)
            )
            kept = await session.get(DriftBaseline, generation_id)
            found = await rows.generations(session, store_id) if store_id else None
        if found is None or found.active is None or found.active.id != generation_id:
            self._sums.forget(generation_id)
        elif kept is not None:
            self._sums.know(Baseline.from_facts(generation_id, kept.facts))
        else:
            await self._make_baseline(generation_id, found.collection(found.active))

    async def _make_baseline(self, generation_id: str, collection: Collection) -> None:
        vectors = await self._vectors.sample(collection, SAMPLE)
        if len(vectors) < self._thresholds.least_queries:
            return  # Documents may still be added; a baseline of few says nothing.
        baseline = Baseline.of(generation_id, vectors)
        async with self._database.transaction() as session:
            living = await _living(session, {generation_id})
            if living and await session.get(DriftBaseline, generation_id) is None:
                session.add(
                    DriftBaseline(
                        generation_id=generation_id, created_at=int(self._clock()),
                        chunks=len(vectors), facts=baseline.facts(),
                    )
                )  # fmt: skip
        self._sums.know(baseline)

    async def _subject(self, store_id: str) -> _Subject:
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
        active = found.active
        if active is None:
            raise NotThere("The vector store has no vectors.")
        return _Subject(
            active.id, store_id, active.model, active.revision, active.canaries,
            found.collection(active),
        )  # fmt: skip

    async def _observed(self, subject: _Subject) -> Observed:
        async with self._database.session() as session:
            kept = await session.get(DriftBaseline, subject.id)
            days = await _days(session, subject.id)
            staleness = await self._staleness(session, subject.store_id)
        baseline = Baseline.from_facts(subject.id, kept.facts) if kept else None
        zero = Sums.zero(len(baseline.sums.total) if baseline else 0)
        first_recent, first = (
            self._days_ago(RECENT_DAYS),
            self._days_ago(RECENT_DAYS + REFERENCE_DAYS),
        )
        recent = {day: sums for day, sums in days.items() if day > first_recent}
        earlier = [sums for day, sums in days.items() if first < day <= first_recent]
        return Observed(
            baseline, sum(recent.values(), zero), sum(earlier, zero), recent, staleness,
            await self._canary_cosine(subject),
        )  # fmt: skip

    async def _canary_cosine(self, subject: _Subject) -> float | None:
        served = self._embedders.get(subject.model)
        return await canary_cosine(served.embedder, subject.canaries) if served else None

    async def _staleness(self, session: AsyncSession, store_id: str) -> Staleness:
        here = (StoreFile.store_id == store_id) & StoreFile.version.is_not(None)
        found = select(func.count(), func.max(StoreFile.created_at)).where(here)
        files, newest = (await session.execute(found)).one()
        if not files:
            return Staleness(0, None, None)
        border = self._clock() - self._thresholds.stale_days * _DAY_S
        old = select(func.count()).where(here, StoreFile.created_at < border)
        share = (await session.scalar(old) or 0) / files
        return Staleness(files, max(0.0, (self._clock() - newest) / _DAY_S), share)

    def _days_ago(self, days: int) -> str:
        return day_of(self._clock() - days * _DAY_S)

    async def _searched_stores(self) -> list[str]:
        async with self._database.session() as session:
            found = await session.scalars(
                select(IndexGeneration.store_id)
                .where(IndexGeneration.id.in_(self._searched), IndexGeneration.state == "active")
                .order_by(IndexGeneration.store_id)
            )
            return list(found)

    async def _keep(self, made: DriftReport) -> None:
        """Store a report, and delete data older than `KEPT_DAYS`."""
        old = int(self._clock()) - KEPT_DAYS * _DAY_S
        async with self._database.transaction() as session:
            session.add(
                DriftReportRow(
                    store_id=made.store_id, created_at=made.created_at, alerts=made.alerts,
                    report=made.as_json(),
                )
            )  # fmt: skip
            await session.execute(delete(DriftReportRow).where(DriftReportRow.created_at < old))
            await session.execute(delete(DriftDay).where(DriftDay.day < self._days_ago(KEPT_DAYS)))


async def _living(session: AsyncSession, generations: set[str]) -> set[str]:
    found = select(IndexGeneration.id).where(IndexGeneration.id.in_(generations))
    return set(await session.scalars(found.with_for_update(read=True)))


async def _days(session: AsyncSession, generation_id: str) -> dict[str, Sums]:
    """Add up the sums of all writers for each day."""
    found = await session.execute(
        select(DriftDay.day, DriftDay.facts).where(DriftDay.generation_id == generation_id)
    )
    days: dict[str, Sums] = {}
    for day, facts in found:
        sums = Sums.from_facts(facts)
        days[day] = days[day] + sums if day in days else sums
    return days
