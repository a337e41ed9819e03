"""The first vectors of a new store: their collection is made before the store, and dropped without.

The embedder that is served now is pinned to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import CursorResult, delete
from sqlalchemy.ext.asyncio import AsyncSession

from models.embedding.embedder import Embedder
from rag.database import Database
from rag.errors import IndexUnavailable, Refused
from rag.index.embedder_versions import pin
from rag.index.protocols import Collection
from rag.reembedding.backfill import INTENT_S
from rag.reembedding.generations import ALL
from rag.schema import IndexGeneration, IndexIntent


class Collections(Protocol):
    """Where the vectors of stores will be: `VectorIndex`."""

    async def create(self, collection: Collection) -> None:
        """Make an empty collection. Raises `IndexUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An embedding model that is served now."""

    embedder: Embedder
    revision: str


class FirstGenerations:
    """Makes them.

    Args:
        database: of the intents.
        collections: where vectors will be.
        embedders: that are served, by model.
        default_model: for stores that do not say which.
        clock: Unix seconds.
    """

    def __init__(
        self,
        database: Database,
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
        """See that a model is served; None: the default.

        Raises:
            Refused: it is not.
        """
        self._served(model or self._default_model)

    async def make(self, store_id: str, tenant: str, model: str | None) -> IndexGeneration:
        """Make an empty collection, and the row that is to be kept with its store by `keep`.

        Raises:
            Refused: no such model is served.
            IndexUnavailable, EngineError: of what is asked; what was made goes by an intent.
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
                f"No embedder {model!r} is served; there are: {known}.", param="embedding_model"
            )
        return served


async def keep(session: AsyncSession, tenant: str, generation: IndexGeneration) -> None:
    """Add a generation, whose store is there: from now on nothing drops its collection.

    Raises:
        IndexUnavailable: that has happened already.
    """
    drop = delete(IndexIntent).where(
        IndexIntent.kind == "drop",
        IndexIntent.tenant == tenant,
        IndexIntent.subject == generation.collection,
    )
    kept = await session.execute(drop)
    if not (isinstance(kept, CursorResult) and kept.rowcount):
        raise IndexUnavailable("Making the collection took too long; try again.")
    session.add(generation)
