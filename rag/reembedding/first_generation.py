"""The first vectors of a new store. Their collection exists before the store, or is dropped.

The generation is pinned to the embedder that is served at the time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import CursorResult, delete
from sqlalchemy.ext.asyncio import AsyncSession

from models.embedding.embedder import Embedder
from rag.database import SqlDatabase
from rag.errors import IndexUnavailable, Refused
from rag.index.embedder_versions import pin
from rag.index.protocols import Collection
from rag.reembedding.backfill import INTENT_S
from rag.reembedding.generations import ALL
from rag.schema import IndexGeneration, IndexIntent


class Collections(Protocol):
    """Creates the collections of vector stores; `VectorIndex` does."""

    async def create(self, collection: Collection) -> None:
        """Create an empty collection. Raises `IndexUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An embedding model that is being served."""

    embedder: Embedder
    revision: str


class FirstGenerations:
    """Creates the first generation of each store.

    Args:
        embedders: the embedders that are served, by model.
        default_model: the embedding model of stores that name none.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        collections: Collections,
        *,
        embedders: Mapping[str, ServedModel],
        default_model: str,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._collections = collections
        self._embedders = embedders
        self._default_model = default_model
        self._clock = clock

    def refuse_unknown(self, model: str | None) -> None:
        """Check that a model is served; None stands for the default model.

        Raises:
            Refused: the model is not served.
        """
        self._served(model or self._default_model)

    async def make(self, store_id: str, tenant: str, model: str | None) -> IndexGeneration:
        """Create an empty collection, and a row that the caller passes to `keep` with its store.

        Raises:
            Refused: the model is not served.
            IndexUnavailable, EngineError: creating it failed; an intent drops what was created.
        """
        model = model or self._default_model
        served = self._served(model)
        pinned = await pin(served.embedder, model, served.revision)
        name = f"gen_{uuid.uuid4().hex}"
        async with self._database.transaction() as session:
            until = self._clock() + INTENT_S
            session.add(IndexIntent(kind="drop", tenant=tenant, subject=name, until=until))
        await self._collections.create(Collection(tenant, name))
        return IndexGeneration(
            id=name, store_id=store_id, state="active", collection=name,
            model=model, revision=served.revision, dimension=pinned.dimension,
            canaries=pinned.canaries, created_at=int(self._clock()), reembedded_to=ALL,
        )  # fmt: skip

    def _served(self, model: str) -> ServedModel:
        served = self._embedders.get(model)
        if served is None:
            known = ", ".join(sorted(self._embedders)) or "none"
            raise Refused(
                f"No embedder {model!r} is served. Available: {known}.", param="embedding_model"
            )
        return served


async def keep(session: AsyncSession, tenant: str, generation: IndexGeneration) -> None:
    """Add a generation whose store exists. From then on, nothing drops its collection.

    Raises:
        IndexUnavailable: the collection has already been dropped.
    """
    drop = delete(IndexIntent).where(
        IndexIntent.kind == "drop",
        IndexIntent.tenant == tenant,
        IndexIntent.subject == generation.collection,
    )
    kept = await session.execute(drop)
    if not (isinstance(kept, CursorResult) and kept.rowcount):
        raise IndexUnavailable("Creating the collection took too long; try again.")
    session.add(generation)
