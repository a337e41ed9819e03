"""Re-embeddings that run in this process: begun, gone on with after a restart, and reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial

from sqlalchemy import select

from models.engine import EngineError
from rag.database import Database
from rag.errors import NotThere, RagError, Refused
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
        passing: errors after which a job goes on later, such as the database's.
    """

    def __init__(
        self,
        reembedding: Reembedding,
        database: Database,
        *,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self._reembedding = reembedding
        self._database = database
        self._passing: tuple[type[Exception], ...] = (RagError, EngineError, *passing)
        self._facts: dict[str, ReembeddingFacts] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

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
        for store_id in list(self._running):
            await self._stop(store_id)

    def _start(self, store_id: str, model: str, work: Callable[[], Awaitable[None]]) -> None:
        if store_id in self._running:
            return
        self._facts[store_id] = ReembeddingFacts("running", model)
        task = asyncio.create_task(self._see_through(store_id, work))
        self._running[store_id] = task
        task.add_done_callback(lambda _: self._running.pop(store_id, None))

    async def _stop(self, store_id: str) -> None:
        if (task := self._running.get(store_id)) is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _see_through(self, store_id: str, work: Callable[[], Awaitable[None]]) -> None:
        """Go on for as long as somebody does not answer; a refusal or the store's end ends it."""
        while True:
            try:
                return await work()
            except (Refused, NotThere) as error:
                self._failed(store_id, error.message)
                return None
            except self._passing as error:
                waits = f"It waits, and goes on by itself: {type(error).__name__}."
                self._facts[store_id] = replace(self._facts[store_id], error=waits)
                logger.warning("re-embedding waits: %s", type(error).__name__)
            await asyncio.sleep(AGAIN_S)

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
