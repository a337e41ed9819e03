"""Re-embedding without downtime: new vectors are built beside the old ones, then swapped in.

A swap is one transaction, and a search reads one generation, so results never mix two.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.engine import CursorResult

from rag.database import SqlDatabase
from rag.errors import Refused
from rag.index.embedder_versions import (
    LEAST_COSINE,
    ServedEmbedder,
    canary_cosine,
    pin,
    worst_cosine,
)
from rag.index.protocols import Collection, VectorIndex
from rag.reembedding import generations as rows
from rag.reembedding.backfill import INTENT_S, Backfill, Build
from rag.reembedding.generations import Generations, Progress
from rag.reembedding.recall_comparison import ComparedGeneration, RecallComparison, compare
from rag.schema import ChunkRow, IndexGeneration, IndexIntent, StoreFile

SAMPLE = 200
"""Chunks of a store that are searched for before a swap."""


class Reembedding:
    """Builds, compares and swaps new vectors for a store.

    Args:
        database: the source of truth.
        vectors: the vector index.
        embedders: the embedders that are served, by model.
        clock: returns Unix seconds.
        new_id: makes ids of generations.
        patience_s: seconds to wait for ingestion that began before a new generation existed.
    """

    def __init__(
        self,
        database: SqlDatabase,
        vectors: VectorIndex,
        embedders: Mapping[str, ServedEmbedder],
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: f"gen_{uuid.uuid4().hex}",
        patience_s: float = 900.0,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._embedders = embedders
        self._clock = clock
        self._new_id = new_id
        self._backfill = Backfill(database, vectors, clock=clock, patience_s=patience_s)

    async def begin(self, store_id: str, model: str, *, force: bool = False) -> str:
        """Begin an empty generation, to which ingestion writes from now on; returns its id.

        Raises:
            NotThere: the store does not exist.
            Refused: the model is not served, a generation is being built, or (unless `force`) the
                new vectors would equal the current ones.
            IndexUnavailable, EngineError: nothing has changed.
        """
        served = self.served(model)
        pinned = await pin(served.embedder, model, served.revision)
        generation = IndexGeneration(
            id=self._new_id(), store_id=store_id, state="building", model=model,
            revision=served.revision, dimension=pinned.dimension, canaries=pinned.canaries,
            created_at=int(self._clock()), reembedded_to=0,
        )  # fmt: skip
        generation.collection = generation.id
        intent = await self._about_to_create(generation, force=force)
        await self._vectors.create(intent.collection)
        async with self._database.transaction() as session:
            rows.refuse_if_building(await rows.generations(session, store_id, lock=True))
            kept = await session.execute(delete(IndexIntent).where(IndexIntent.id == intent.id))
            if not (isinstance(kept, CursorResult) and kept.rowcount):
                raise Refused("Creating the collection took too long; try again.")
            session.add(generation)
        return generation.id

    async def run(
        self, store_id: str, *, told: Callable[[Progress], None] = lambda _: None
    ) -> None:
        """Embed everything published; resume where an earlier run ended.

        Args:
            store_id: a store with a generation that is being built.
            told: receives the progress from time to time.

        Raises:
            NotThere: the store does not exist.
            Refused: nothing is being built, its embedder is not served, or earlier ingestion does
                not finish.
            IndexUnavailable, EngineError: try again.
        """
        build = await self._building(store_id)
        await self._backfill.run(build, told)

    async def compare(self, store_id: str, *, sample: int = SAMPLE) -> RecallComparison:
        """Search for some of the store's chunks with the old vectors and with the new ones.

        Raises:
            NotThere, Refused: as for `run`.
            IndexUnavailable, EngineError: a search or an embedding failed.
        """
        build = await self._building(store_id)
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
        before = await self._before(found)
        chunks = await self._sample(store_id, sample)
        return await compare(
            self._vectors, before, ComparedGeneration(build.collection, build.served), chunks
        )

    async def swap(
        self, store_id: str, comparison: RecallComparison | None = None, *, force: bool = False
    ) -> str:
        """Make the new vectors the ones that are searched; returns their generation's id.

        Args:
            store_id: a store with complete new vectors.
            comparison: a comparison that must be acceptable; None skips this check.
            force: whether to swap even if the comparison is not acceptable.

        Raises:
            NotThere: the store does not exist.
            Refused: nothing is complete, or (unless `force`) the new vectors find less.
        """
        if not (force or comparison is None or comparison.acceptable):
            before = comparison.found_before
            old = (
                "and the old embedder is no longer served"
                if before is None
                else f"the old {before:.1%}"
            )
            raise Refused(
                f"The new vectors find {comparison.found_after:.1%} of a sample among the first "
                f"10, {old}; swap with force to use them anyway."
            )
        async with self._database.transaction() as session:
            return await rows.swap(session, store_id)

    async def go_back(self, store_id: str) -> str:
        """Have the previous vectors brought up to date like new ones; returns their model.

        Raises:
            NotThere: the store does not exist.
            Refused: there are no previous vectors, or others are being built.
        """
        async with self._database.transaction() as session:
            await rows.go_back(session, store_id)
            return rows.building(await rows.generations(session, store_id)).model

    async def abandon(self, store_id: str) -> None:
        """Remove the generation that is being built; an intent drops its collection.

        Raises:
            NotThere: the store does not exist.
            Refused: nothing is being built.
        """
        async with self._database.transaction() as session:
            found = await rows.generations(session, store_id, lock=True)
            await rows.give_up(session, found, rows.building(found))

    async def status(self, store_id: str) -> Progress | None:
        """Return the progress of the building generation; None if there is none.

        Raises:
            NotThere: the store does not exist.
        """
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
            return await rows.progress(session, found.building) if found.building else None

    async def _about_to_create(self, generation: IndexGeneration, *, force: bool) -> _Created:
        async with self._database.transaction() as session:
            found = await rows.generations(session, generation.store_id, lock=True)
            rows.refuse_if_building(found)
            if not force and found.active is not None and _alike(found.active, generation):
                raise Refused(f"The vectors are already made by this {generation.model!r}.")
            intent = IndexIntent(
                kind="drop", tenant=found.tenant, subject=generation.collection,
                until=self._clock() + INTENT_S,
            )  # fmt: skip
            session.add(intent)
            await session.flush()
            return _Created(intent.id, found.collection(generation))

    async def _before(self, found: Generations) -> ComparedGeneration | None:
        """Return the active generation; None if the embedder that made it is no longer served."""
        active = found.active
        if active is None or (old := self._same(active)) is None:
            return None
        if await canary_cosine(old.embedder, active.canaries) < LEAST_COSINE:
            return None
        return ComparedGeneration(found.collection(active), old)

    def served(self, model: str) -> ServedEmbedder:
        """Return the embedder that serves a model.

        Raises:
            Refused: the model is not served.
        """
        served = self._embedders.get(model)
        if served is None:
            known = ", ".join(sorted(self._embedders)) or "none"
            raise Refused(f"No embedder {model!r} is served. Available: {known}.", param="model")
        return served

    def _same(self, generation: IndexGeneration) -> ServedEmbedder | None:
        served = self._embedders.get(generation.model)
        return served if served and served.revision == generation.revision else None

    async def _building(self, store_id: str) -> Build:
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
        generation = rows.building(found)
        served = self._same(generation)
        if served is None:
            raise Refused(
                f"{generation.model!r} in revision {generation.revision!r} is no longer served.",
                param="model",
            )
        return Build(generation.id, store_id, found.collection(generation), served)

    async def _sample(self, store_id: str, size: int) -> list[tuple[str, str]]:
        """Return keys and texts of published chunks, spread over the store."""
        published = (StoreFile.id == ChunkRow.store_file_id) & (
            StoreFile.version == ChunkRow.version
        )
        of_store = (
            select(ChunkRow.id).join(StoreFile, published).where(StoreFile.store_id == store_id)
        )
        async with self._database.session() as session:
            ids = list(await session.scalars(of_store.order_by(ChunkRow.id)))
            picked = ids[:: max(1, -(-len(ids) // size))]
            found = await session.execute(
                select(ChunkRow.key, ChunkRow.text)
                .where(ChunkRow.id.in_(picked))
                .order_by(ChunkRow.id)
            )
            return [(key, text) for key, text in found]


@dataclass(frozen=True, slots=True)
class _Created:
    """The intent for a collection that no row owns yet."""

    id: int
    collection: Collection


def _alike(active: IndexGeneration, new: IndexGeneration) -> bool:
    same = (active.model, active.revision) == (new.model, new.revision)
    return same and worst_cosine(active.canaries, new.canaries) >= LEAST_COSINE
