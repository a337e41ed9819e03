"""Re-embedding without downtime: new vectors beside the old, and one transaction that swaps them.

Searches read one generation from beginning to end, so none mixes two.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.engine import CursorResult

from rag.database import Database
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
from rag.reembedding.recall_comparison import RecallComparison, Side, compare
from rag.schema import Chunk, IndexGeneration, IndexIntent, StoreFile

SAMPLE = 200
"""Chunks of a store that are searched for, before its vectors are swapped."""


class Reembedding:
    """New vectors for a store.

    Args:
        database: the truth.
        vectors: of all generations.
        embedders: that are served, by model.
        clock: Unix seconds.
        new_id: of a generation.
        patience_s: for ingestion that began before a new generation did.
    """

    def __init__(
        self,
        database: Database,
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
        """Make an empty generation, into which ingestion writes from now on; returns its id.

        Raises:
            NotThere: no such store.
            Refused: no such model, one is being built, or (unless forced) nothing would change.
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
                raise Refused("Making the collection took too long; try again.")
            session.add(generation)
        return generation.id

    async def run(
        self, store_id: str, *, told: Callable[[Progress], None] = lambda _: None
    ) -> None:
        """Embed all that is published, and go on where an earlier run ended.

        Args:
            store_id: that has a generation which is being built.
            told: how far it is, now and then.

        Raises:
            NotThere: no such store.
            Refused: nothing is being built, its embedder is not served, or an ingestion that began
                earlier does not end.
            IndexUnavailable, EngineError: call it again.
        """
        build = await self._building(store_id)
        await self._backfill.run(build, told)

    async def compare(self, store_id: str, *, sample: int = SAMPLE) -> RecallComparison:
        """Search for some of the store's chunks in the old vectors and in the new.

        Raises:
            NotThere, Refused: as of `run`.
            IndexUnavailable, EngineError: of what is asked.
        """
        build = await self._building(store_id)
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
        before = await self._before(found)
        chunks = await self._sample(store_id, sample)
        return await compare(self._vectors, before, Side(build.collection, build.served), chunks)

    async def swap(
        self, store_id: str, comparison: RecallComparison | None = None, *, force: bool = False
    ) -> str:
        """Search the new vectors from now on; returns their generation's id.

        Args:
            store_id: that has complete new vectors.
            comparison: that must be acceptable; None: nothing was compared.
            force: swap even if it is not.

        Raises:
            NotThere: no such store.
            Refused: nothing is complete, or (unless forced) the new vectors find less.
        """
        if not (force or comparison is None or comparison.acceptable):
            before = comparison.found_before
            old = (
                "and the old embedder is not served" if before is None else f"the old {before:.1%}"
            )
            raise Refused(
                f"The new vectors find {comparison.found_after:.1%} of a sample among the first "
                f"10, {old}; swap with force to take them nevertheless."
            )
        async with self._database.transaction() as session:
            return await rows.swap(session, store_id)

    async def go_back(self, store_id: str) -> str:
        """Have the previous vectors brought up to date, as if they were new; returns their model.

        Raises:
            NotThere: no such store.
            Refused: there are none, or others are being made.
        """
        async with self._database.transaction() as session:
            await rows.go_back(session, store_id)
            return rows.building(await rows.generations(session, store_id)).model

    async def abandon(self, store_id: str) -> None:
        """Give up what is being built; its collection goes by an intent.

        Raises:
            NotThere: no such store.
            Refused: nothing is being built.
        """
        async with self._database.transaction() as session:
            found = await rows.generations(session, store_id, lock=True)
            await rows.give_up(session, found, rows.building(found))

    async def status(self, store_id: str) -> Progress | None:
        """How far the building generation is; None: there is none.

        Raises:
            NotThere: no such store.
        """
        async with self._database.session() as session:
            found = await rows.generations(session, store_id)
            return await rows.progress(session, found.building) if found.building else None

    async def _about_to_create(self, generation: IndexGeneration, *, force: bool) -> _Created:
        async with self._database.transaction() as session:
            found = await rows.generations(session, generation.store_id, lock=True)
            rows.refuse_if_building(found)
            if not force and found.active is not None and _alike(found.active, generation):
                raise Refused(f"The vectors are by this {generation.model!r} already.")
            intent = IndexIntent(
                kind="drop", tenant=found.tenant, subject=generation.collection,
                until=self._clock() + INTENT_S,
            )  # fmt: skip
            session.add(intent)
            await session.flush()
            return _Created(intent.id, found.collection(generation))

    async def _before(self, found: Generations) -> Side | None:
        """What is searched now; None where the embedder that made it is not served any more."""
        active = found.active
        if active is None or (old := self._same(active)) is None:
            return None
        if await canary_cosine(old.embedder, active.canaries) < LEAST_COSINE:
            return None
        return Side(found.collection(active), old)

    def served(self, model: str) -> ServedEmbedder:
        """A model that embeds.

        Raises:
            Refused: it is not served.
        """
        served = self._embedders.get(model)
        if served is None:
            known = ", ".join(sorted(self._embedders)) or "none"
            raise Refused(f"No embedder {model!r} is served; there are: {known}.", param="model")
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
                f"{generation.model!r} in revision {generation.revision!r} is not served any more.",
                param="model",
            )
        return Build(generation.id, store_id, found.collection(generation), served)

    async def _sample(self, store_id: str, size: int) -> list[tuple[str, str]]:
        """Keys and texts of published chunks, from all over the store."""
        published = (StoreFile.id == Chunk.store_file_id) & (StoreFile.version == Chunk.version)
        of_store = select(Chunk.id).join(StoreFile, published).where(StoreFile.store_id == store_id)
        async with self._database.session() as session:
            ids = list(await session.scalars(of_store.order_by(Chunk.id)))
            picked = ids[:: max(1, -(-len(ids) // size))]
            found = await session.execute(
                select(Chunk.key, Chunk.text).where(Chunk.id.in_(picked)).order_by(Chunk.id)
            )
            return [(key, text) for key, text in found]


@dataclass(frozen=True, slots=True)
class _Created:
    """The intent behind a collection that no row owns yet."""

    id: int
    collection: Collection


def _alike(active: IndexGeneration, new: IndexGeneration) -> bool:
    same = (active.model, active.revision) == (new.model, new.revision)
    return same and worst_cosine(active.canaries, new.canaries) >= LEAST_COSINE
