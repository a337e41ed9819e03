"""Retrieval of a gateway, wired. The indexes are in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from models.background import BackgroundLoop, close_all
from models.embedding.embedder import Embedder
from models.prepare import revision_of
from models.tokens.token_counter import TokenCounter
from rag.files.blobs import Blobs
from rag.files.file_batches import FileBatches
from rag.files.files import Files
from rag.index.lexical_index import text_index
from rag.reembedding.first_generation import ServedModel
from rag.stores.store_files import StoreFiles
from rag.stores.vector_stores import VectorStores
from serving.config import Settings
from serving.gateway.openai.documents import Documents
from serving.knowledge.remote import RemoteKnowledge
from serving.retrieval.drift_watch import DriftWatch
from serving.retrieval.grounding import Grounding
from serving.retrieval.knowledge import Knowledge
from serving.retrieval.knowledge_watch import KnowledgeWatch
from serving.retrieval.query_vectors import QueryVectors
from serving.retrieval.searching import Searching
from serving.storage.database import Database
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts


@dataclass(frozen=True, slots=True)
class RetrievalParts:
    """Retrieval of a gateway, for its routes and its pipeline.

    Attributes:
        documents: files and vector stores in SQL.
        knowledge: what can be looked up.
        drift: of the stores, in metrics.
        indexing: how what runs in `Knowledge` fares.
    """

    documents: Documents
    knowledge: Knowledge
    drift: DriftWatch
    indexing: KnowledgeWatch

    @classmethod
    def open(
        cls,
        settings: Settings,
        remote: RemoteKnowledge,
        *,
        database: Database,
        embedders: Mapping[str, Embedder],
        counters: Mapping[str, TokenCounter],
        admission_parts: AdmissionParts,
        meter: Meter,
    ) -> Self:
        """Wire everything; nothing runs yet.

        Args:
            settings: all of them. A model embeds.
            remote: the process that owns the indexes.
            database: where files and stores are.
            embedders: that are served, by model.
            counters: of all models.
            admission_parts: let searches in.
            meter: shows drift.
        """
        documents = _documents(settings, remote, database=database, embedders=embedders)
        vectors = QueryVectors(admission_parts.attempts, embedders, counters)
        searching = Searching(documents.stores, remote, vectors)
        knowledge = Knowledge(searching, Grounding(searching, counters))
        return cls(documents, knowledge, DriftWatch(database, meter), KnowledgeWatch(remote.loops))

    @property
    def loops(self) -> tuple[BackgroundLoop, ...]:
        """What runs beside requests."""
        return self.drift.loop, self.indexing.loop

    def start(self) -> None:
        """Begin what runs beside requests."""
        for loop in self.loops:
            loop.start()

    async def close(self) -> None:
        """Stop."""
        await close_all(self.loops)


def _documents(
    settings: Settings,
    remote: RemoteKnowledge,
    *,
    database: Database,
    embedders: Mapping[str, Embedder],
) -> Documents:
    text, most = text_index(database.dialect), settings.retrieval.max_store_files
    store_files = StoreFiles(database, text, max_files=most)
    return Documents(
        files=Files(database, text),
        stores=VectorStores(
            database,
            text,
            collections=remote,
            embedders=_served(settings, embedders),
            default_model=settings.embedder or "",
            store_files=store_files,
        ),
        store_files=store_files,
        batches=FileBatches(database, text, store_files=store_files),
        blobs=Blobs(settings.files_url),
        wake=remote.wake,
    )


def _served(settings: Settings, embedders: Mapping[str, Embedder]) -> dict[str, ServedModel]:
    return {
        spec.id: ServedModel(embedders[spec.id], revision_of(spec))
        for spec in settings.models
        if spec.id in embedders
    }
