"""Retrieval in one process, wired: both indexes, ingestion, recovery, re-embedding and drift."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from models.background import BackgroundLoop, close_all
from models.embedding.reranker import Reranker
from models.engine import EngineError, EngineUnavailable
from models.threads import Threads
from rag.drift.drift import Drift
from rag.drift.query_sums import QuerySums
from rag.drift.report import DriftReport, DriftThresholds
from rag.errors import IndexUnavailable
from rag.files.blobs import Blobs
from rag.files.expiry import Expiry
from rag.index.chroma_index import ChromaIndex
from rag.index.embedder_checks import EmbedderChecks
from rag.index.embedder_versions import ServedEmbedder
from rag.index.lexical_index import text_index
from rag.index.protocols import Collection
from rag.ingestion.consistency import Consistency
from rag.ingestion.ingestion import Ingestion
from rag.ingestion.leases import Leases
from rag.ingestion.recovery import Recovery
from rag.parsing.parser_process import ParserProcess
from rag.reembedding.generations import generations
from rag.reembedding.reembedding import Reembedding
from rag.schema import IndexGeneration, VectorStore
from rag.search.filters import clause
from rag.search.passages import Passage, merged
from rag.search.retrieval import Query, Question, Retriever
from rag.search.search_request import LexicalHits, LexicalRequest, SearchRequest
from serving.config import Settings
from serving.config.retrieval import DriftSettings, ParsingSettings
from serving.knowledge.curation import ReembeddingFacts, StoreFacts
from serving.knowledge.reembedding_jobs import ReembeddingJobs
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable

logger = logging.getLogger("ringfence.knowledge")

WORKERS = 2
"""Batches of files at a time: one is embedded while another is read or published."""

POLL_S = 1.0
"""How often the database is searched for work that nobody announced."""

PASSING = (DatabaseUnavailable,)

AGAIN_S = 5.0
"""Pause before something that did not answer is asked again."""

UNKNOWN = "The embedder does not answer now."


class KnowledgeService:
    """The work of the `Knowledge` process. Raises `RagError`, `EngineError` and database errors.

    Args:
        settings: all of them.
        database: the truth.
        embedders: that are served, by model.
        reranker: looks at the best passages again; None: nobody does.
        clock: Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        embedders: Mapping[str, ServedEmbedder],
        reranker: Reranker | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings.retrieval
        self._served = frozenset(embedders)
        self._default = settings.embedder
        self._database = database
        self._vectors = vectors = _vectors(settings)
        self._text = text = text_index(database.dialect)
        self._contents = contents = Blobs(settings.files_url)
        self._parser = _parser(self._settings.parsing)
        self._checks = EmbedderChecks(embedders, clock=clock)
        self._sums = QuerySums(clock)
        self._retriever = Retriever(
            database, vectors, text, reranker, clock=clock,
            timeout_s=self._settings.search_timeout_s,
        )  # fmt: skip
        self._ingestion = Ingestion(
            database, vectors, text,
            leases=Leases(database, text, embedders, clock=clock),
            contents=contents, parser=self._parser, checks=self._checks, passing=PASSING,
        )  # fmt: skip
        self._expiry = Expiry(database, text, clock=clock)
        self._recovery = Recovery(
            database, vectors, text, contents=contents, expiry=self._expiry, clock=clock
        )  # fmt: skip
        self._consistency = Consistency(database, vectors, text, contents)
        self._jobs = ReembeddingJobs(
            Reembedding(database, vectors, embedders, clock=clock), database
        )
        self._drift = Drift(
            database, vectors, embedders, sums=self._sums,
            thresholds=_thresholds(self._settings.drift), event=self._drifted, clock=clock,
        )  # fmt: skip
        self._mending: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()
        self._workers: list[BackgroundLoop] = []
        self.loops: list[BackgroundLoop] = []

    def start(self, *, curates: bool = True) -> None:
        """Begin what runs beside searches.

        Args:
            curates: whether this process indexes, recovers and re-embeds; one does.
        """
        settings = self._settings
        self.loops = self._drift.loops(interval_s=settings.drift.interval_s)
        if curates:
            self._workers = [
                *self._ingestion.loops(workers=WORKERS, poll_s=POLL_S),
                *self._recovery.loops(poll_s=POLL_S, sweep_s=settings.sweep_s),
            ]
            self.loops += [
                *self._workers,
                _until_done("reembedding_resume", self._jobs.resume),
                _until_done("embedder_checks", self._look_at_embedders),
            ]
        for loop in self.loops:
            loop.start()

    async def close(self) -> None:
        """Stop. The next process continues what was begun."""
        await close_all(self.loops)
        for task in self._mending:
            task.cancel()
        await self._jobs.close()
        await self._parser.close()
        await Threads("chroma-close", 1).run(self._vectors.close)

    def wake(self) -> None:
        """There is something to index or to remove."""
        for loop in self._workers:
            loop.wake()

    async def create(self, collection: Collection) -> None:
        """Make an empty collection. Raises `IndexUnavailable`."""
        await self._vectors.create(collection)

    async def lexical(self, request: LexicalRequest) -> list[LexicalHits]:
        """Search the full text for each question; see `Index.lexical`.

        Raises:
            Refused: a filter cannot be used.
            IndexUnavailable: it cannot be searched now.
        """
        filters = None if request.filters is None else clause(request.filters)
        questions = (
            Question(request.reader, request.generations, text, request.limit, filters)
            for text in request.texts
        )
        return await asyncio.gather(*map(self._retriever.lexical, questions))

    async def search(self, request: SearchRequest) -> list[Passage]:
        """Passages for all questions together; see `Index.search`.

        Raises:
            EmbedderMismatch: a store's vectors are another embedder's.
            Refused: a filter cannot be used.
            IndexUnavailable, EngineError: it cannot be searched now.
        """
        for generation in request.generations:
            await self._checks.refuse(generation)
        found = await asyncio.gather(*map(self._retriever.search, _queries(request)))
        if len(request.generations) == 1:  # Else it is not known whose the best hit is.
            for vector, one in zip(request.vectors, found, strict=True):
                self._sums.add(request.generations[0].id, vector, one.best_cosine)
        passages = merged((one.passages for one in found), request.limit)
        await self._refuse_gone(request, passages)
        await self._expiry.used([one.store_id for one in request.generations])
        return passages

    async def stores(self) -> list[StoreFacts]:
        """See `Curator`."""
        async with self._database.session() as session:
            rows = list(await session.scalars(select(VectorStore).order_by(VectorStore.id)))
        return [await self._facts(row) for row in rows]

    async def reembed(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        """See `Curator`."""
        return await self._jobs.begin(store_id, model, force=force)

    async def reembedding(self, store_id: str) -> ReembeddingFacts:
        """See `Curator`."""
        return await self._jobs.facts(store_id)

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        """See `Curator`."""
        return await self._jobs.rollback(store_id)

    async def drift(self, store_id: str) -> dict[str, Any]:
        """See `Curator`."""
        return (await self._drift.report(store_id)).as_json()

    async def check(self) -> list[str]:
        """See `Curator`."""
        return await self._consistency.check()

    async def _refuse_gone(self, request: SearchRequest, passages: Sequence[Passage]) -> None:
        """Vectors that were given up since they were looked up find nothing: that is no answer.

        Raises:
            IndexUnavailable: some were.
        """
        from_wire = {passage.store_id for passage in passages}
        silent = {one.id for one in request.generations if one.store_id not in from_wire}
        if not silent:
            return
        there = select(IndexGeneration.id).where(IndexGeneration.id.in_(silent))
        async with self._database.session() as session:
            gone = silent - set(await session.scalars(there))
        if gone:
            raise IndexUnavailable("The vectors were replaced during the search; search again.")

    async def _facts(self, store: VectorStore) -> StoreFacts:
        async with self._database.session() as session:
            found = await generations(session, store.id)
        if found.active is None:
            return StoreFacts(store.id, store.tenant, store.name, None, None, None)
        active = found.value(found.active)
        try:
            mismatch = await self._checks.refusal(active)
        except EngineError:
            mismatch = UNKNOWN
        return StoreFacts(store.id, store.tenant, store.name, active.id, active.model, mismatch)

    def _drifted(self, report: DriftReport) -> None:
        logger.warning("vector store %s drifts: %s", report.store_id, ", ".join(report.alerts))
        if self._settings.drift.reembed and "canary_cosine" in report.alerts:
            task = asyncio.create_task(self._mend(report.store_id))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)

    async def _look_at_embedders(self) -> None:
        """Tell which stores cannot be searched because their embedder has changed; once.

        Raises:
            EngineUnavailable: not all could be compared.
        """
        unsure = False
        for store in await self.stores():
            unsure = unsure or store.mismatch == UNKNOWN
            if store.mismatch not in (None, UNKNOWN) and store.id not in self._told:
                self._told.add(store.id)
                logger.error("%s", store.mismatch)
                if self._settings.drift.reembed:
                    await self._mend(store.id)
        if unsure:
            raise EngineUnavailable(UNKNOWN)

    async def _mend(self, store_id: str) -> None:
        """New vectors by the model that is served now under the old one's name, or by default."""
        try:
            async with self._database.session() as session:
                found = await generations(session, store_id)
            active = found.active
            if active is not None and found.building is None:  # Else somebody mends it already.
                model = active.model if active.model in self._served else self._default
                await self._jobs.begin(store_id, model or active.model, force=True)
        except Exception as error:  # noqa: BLE001  The next report of drift tries again.
            logger.warning("re-embedding does not begin: %s", type(error).__name__)


def _until_done(name: str, work: Callable[[], Awaitable[None]]) -> BackgroundLoop:
    return BackgroundLoop(name, work, every_s=AGAIN_S, at_once=True, once=True)


def _vectors(settings: Settings) -> ChromaIndex:
    retrieval = settings.retrieval
    if retrieval.chroma_url is not None:
        return ChromaIndex.server(retrieval.chroma_url, token=retrieval.chroma_token)
    return ChromaIndex.embedded(settings.home / "chroma")


def _parser(settings: ParsingSettings) -> ParserProcess:
    return ParserProcess(
        processes=settings.processes,
        timeout_s=settings.timeout_s,
        memory_bytes=settings.memory_bytes,
    )


def _thresholds(settings: DriftSettings) -> DriftThresholds:
    return DriftThresholds(**settings.model_dump(exclude={"interval_s", "reembed"}))


def _queries(request: SearchRequest) -> list[Query]:
    filters = None if request.filters is None else clause(request.filters)
    return [
        Query(
            reader=request.reader,
            generations=request.generations,
            text=text,
            vector=vector,
            lexical=lexical,
            limit=request.limit,
            filters=filters,
            threshold=request.threshold,
            weights=request.weights,
            rerank=request.rerank,
        )
        for text, vector, lexical in zip(
            request.texts, request.vectors, request.lexical, strict=True
        )
    ]
