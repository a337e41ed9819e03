"""Re-embeddings that run in this process: begun, gone on with after a restart, and reported."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial

from sqlalchemy import select

from models.background import BackgroundLoop, close_all
from rag.database import SqlDatabase
from rag.errors import NotThere, Refused
from rag.reembedding.generations import Progress
from rag.reembedding.recall_comparison import RecallComparison
from rag.reembedding.reembedding import Reembedding
from rag.schema import IndexGeneration
from serving.knowledge.curation import ReembeddingFacts

logger = logging.getLogger("ringfence.reembedding")

AGAIN_S = 5.0
"""Pause before a re-embedding goes on after an index or the embedder did not answer."""


class ReembeddingJobs:
    """Runs re-embeddings, at most one for each store.

    Args:
        reembedding: does the work, which is all in SQL and the index.
        database: where it is seen what an earlier process began.
    """

    def __init__(self, reembedding: Reembedding, database: SqlDatabase) -> None:
        self._reembedding = reembedding
        self._database = database
        self._facts: dict[str, ReembeddingFacts] = {}
        self._running: dict[str, BackgroundLoop] = {}

    async def begin(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        """Begin, or go on with one by the same model. Forced, one by another model is given up.

        Raises:
            NotThere: no such store.
            Refused: the model is not served, nothing would change, or another one is at work.
            IndexUnavailable, EngineError: nothing has changed.
        """
        self._reembedding.served(model)
        progress = await self._reembedding.status(store_id)
        if progress is not None and progress.model != model and force:
            await self._stop(store_id)
            await self._reembedding.abandon(store_id)
            progress = None
        if progress is None or progress.model != model:
            await self._reembedding.begin(store_id, model, force=force)
        self._start(store_id, model, partial(self._reembed, store_id, force=force))
        return await self.facts(store_id)

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        """Begin to bring the previous vectors up to date; then they are searched.

        Raises:
            NotThere: no such store.
            Refused: there are no previous ones, or others are being made.
        """
        model = await self._reembedding.go_back(store_id)
        self._start(store_id, model, partial(self._go_back, store_id))
        return await self.facts(store_id)

    async def facts(self, store_id: str) -> ReembeddingFacts:
        """Return its progress, wherever it runs, or how the last one of this process ended.

        Raises:
            NotThere: no such store.
        """
        progress = await self._reembedding.status(store_id)
        known = self._facts.get(store_id, ReembeddingFacts("none"))
        if progress is None:
            return known
        if known.phase in ("none", "swapped"):  # Another process is at it.
            known = ReembeddingFacts("running")
        return replace(known, model=progress.model, done=progress.done, total=progress.total)

    async def resume(self) -> None:
        """Go on with what an earlier process began."""
        async with self._database.session() as session:
            building = IndexGeneration.state == "building"
            found = await session.execute(
                select(IndexGeneration.store_id, IndexGeneration.model).where(building)
            )
            begun = [(store_id, model) for store_id, model in found]
        for store_id, model in begun:
            self._start(store_id, model, partial(self._reembed, store_id, force=False))

    async def close(self) -> None:
        """Stop; what was done stays done."""
        await close_all(self._running.values())

    def _start(self, store_id: str, model: str, work: Callable[[], Awaitable[None]]) -> None:
        running = self._running.get(store_id)
        if running is not None and running.runs:
            return
        self._facts[store_id] = ReembeddingFacts("running", model)
        self._running[store_id] = loop = BackgroundLoop(
            "reembedding", partial(self._see_through, store_id, work), every_s=AGAIN_S,
            at_once=True, once=True,
        )  # fmt: skip
        loop.start()

    async def _stop(self, store_id: str) -> None:
        if (loop := self._running.get(store_id)) is not None:
            await loop.close()

    async def _see_through(self, store_id: str, work: Callable[[], Awaitable[None]]) -> None:
        """Only a refusal or the store's end ends it; after any other error it is tried again."""
        try:
            await work()
        except (Refused, NotThere) as error:
            self._failed(store_id, error.message)
        except Exception as error:
            waits = f"It waits, and goes on by itself: {type(error).__name__}."
            self._facts[store_id] = replace(self._facts[store_id], error=waits)
            raise

    async def _go_back(self, store_id: str) -> None:
        await self._reembedding.run(store_id, told=partial(self._told, store_id))
        await self._swap(store_id, None, force=False)

    async def _reembed(self, store_id: str, *, force: bool) -> None:
        await self._reembedding.run(store_id, told=partial(self._told, store_id))
        comparison = await self._reembedding.compare(store_id)
        self._facts[store_id] = replace(
            self._facts[store_id], phase="complete", recall=asdict(comparison)
        )
        await self._swap(store_id, comparison, force=force)

    async def _swap(
        self, store_id: str, comparison: RecallComparison | None, *, force: bool
    ) -> None:
        await self._reembedding.swap(store_id, comparison, force=force)
        self._facts[store_id] = replace(self._facts[store_id], phase="swapped", error=None)
        logger.info("vector store %s is searched by new vectors", store_id)

    def _told(self, store_id: str, progress: Progress) -> None:
        self._facts[store_id] = replace(
            self._facts[store_id], model=progress.model, done=progress.done, total=progress.total
        )

    def _failed(self, store_id: str, error: str) -> None:
        self._facts[store_id] = replace(self._facts[store_id], phase="failed", error=error)
