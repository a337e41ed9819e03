"""The consistency check: reports where vectors, full text, blobs and SQL disagree. Changes nothing.

Work in progress is left out: SQL has an intent for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

from sqlalchemy import func, select

from rag.database import SqlDatabase
from rag.errors import IndexUnavailable
from rag.index.protocols import Collection, TextIndex, VectorIndex, chunk_key
from rag.schema import ChunkRow, File, IndexGeneration, IndexIntent, StoreFile, VectorStore


class BlobList(Protocol):
    """Lists stored blobs; `Blobs` does."""

    def listed(self) -> AsyncIterator[tuple[str, str, float]]:
        """Yield tenant, file id and modification time (Unix seconds) of every blob."""
        ...


class Consistency:
    """Compares the indexes and the blob store with SQL.

    Args:
        database: the source of truth.
        vectors: the vector index.
        text: the full-text index.
        contents: the blob store.
    """

    def __init__(
        self, database: SqlDatabase, vectors: VectorIndex, text: TextIndex, contents: BlobList
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._contents = contents

    async def check(self) -> list[str]:
        """Return one sentence for each disagreement; empty if there is none.

        A change between two queries looks like a disagreement, so only findings that a second look
        confirms are reported.

        Raises:
            IndexUnavailable, OSError: an index or the blob store did not answer.
        """
        if not (found := await self._look()):
            return found
        again = set(await self._look())
        return [finding for finding in found if finding in again]

    async def _look(self) -> list[str]:
        return [
            *await self._collections(),
            *await self._vectors_of_stores(),
            *await self._chunks(),
            *await self._full_text(),
            *await self._bytes(),
        ]

    async def _collections(self) -> list[str]:
        there = set(await self._vectors.collections())
        async with self._database.session() as session:
            found = await session.execute(
                select(VectorStore.tenant, IndexGeneration.collection).join(
                    VectorStore, VectorStore.id == IndexGeneration.store_id
                )
            )
            known = {Collection(*row) for row in found}
            noted = set(await session.scalars(select(IndexIntent.subject)))
        strays = [one for one in there - known if one.name not in noted]
        return [f"collection {one.name} is missing" for one in sorted(known - there, key=str)] + [
            f"collection {one.name} belongs to no vector store" for one in sorted(strays, key=str)
        ]

    async def _vectors_of_stores(self) -> list[str]:
        """Find chunks without vectors in searched generations, and vectors without chunks."""
        async with self._database.session() as session:
            found = await session.execute(
                select(VectorStore.tenant, IndexGeneration).join(
                    VectorStore, VectorStore.id == IndexGeneration.store_id
                )
            )
            each = [(tenant, generation) for tenant, generation in found]
        return [
            finding
            for tenant, generation in each
            for finding in await self._vectors_of(tenant, generation)
        ]

    async def _vectors_of(self, tenant: str, generation: IndexGeneration) -> list[str]:
        """Compare one collection with SQL.

        Vectors are read first: a version published meanwhile already has vectors and an intent.
        """
        keys: set[str] = set()
        collection = Collection(tenant, generation.collection)
        try:
            async for ids in self._vectors.ids(collection):
                keys.update(map(chunk_key, ids))
        except IndexUnavailable:
            return [f"collection {collection.name} cannot be read"]
        there = Counter(key.rpartition(":")[0] for key in keys)
        async with self._database.session() as session:
            noted = set(await session.scalars(select(IndexIntent.subject)))
            found = await session.execute(
                select(StoreFile.version, func.count(ChunkRow.id))
                .join(ChunkRow, ChunkRow.version == StoreFile.version)
                .where(StoreFile.store_id == generation.store_id)
                .group_by(StoreFile.version)
            )
            published: dict[str, int] = {row[0] or "": row[1] for row in found}
        missing = [
            f"file version {version} has vectors for {there.get(version, 0)} of {chunks} chunks"
            for version, chunks in sorted(published.items())
            if generation.state == "active" and there.get(version, 0) != chunks
        ]
        strays = sorted(set(there) - set(published) - noted)
        return missing + [f"vectors of version {version} belong to no file" for version in strays]

    async def _chunks(self) -> list[str]:
        """Find chunks that are not published, and completed files without chunks."""
        async with self._database.session() as session:
            unpublished = await session.scalars(
                select(ChunkRow.version)
                .outerjoin(StoreFile, StoreFile.version == ChunkRow.version)
                .where(StoreFile.id.is_(None))
                .distinct()
            )
            empty = await session.scalars(
                select(StoreFile.id)
                .outerjoin(ChunkRow, ChunkRow.version == StoreFile.version)
                .where(StoreFile.status == "completed", ChunkRow.id.is_(None))
            )
            return [f"chunks of version {one} belong to no file" for one in unpublished] + [
                f"file {one} of a vector store is completed and has no chunks" for one in empty
            ]

    async def _full_text(self) -> list[str]:
        """Check the stores that have vectors; an expired store has neither vectors nor text."""
        full = select(IndexGeneration.id).where(IndexGeneration.store_id == VectorStore.id)
        async with self._database.session() as session:
            there = set(await self._text.stores(session))
            numbers = set(await session.scalars(select(VectorStore.number).where(full.exists())))
        differing = [await self._differing(number) for number in sorted(numbers & there)]
        return (
            [finding for finding in differing if finding is not None]
            + [f"full text of store {one} is missing" for one in sorted(numbers - there)]
            + [f"full text {one} has no store" for one in sorted(there - numbers)]
        )

    async def _differing(self, number: int) -> str | None:
        """Compare one full-text table with SQL, while the store is locked against changes."""
        held = select(VectorStore.id).where(VectorStore.number == number).with_for_update()
        async with self._database.transaction() as session:
            store_id = await session.scalar(held)
            full = select(IndexGeneration.id).where(IndexGeneration.store_id == store_id)
            if await session.scalar(full.limit(1)) is None:
                return None
            chunks = set(
                await session.scalars(select(ChunkRow.id).where(ChunkRow.store_number == number))
            )
            differing = len(await self._text.chunk_ids(session, number) ^ chunks)
        return f"full text of store {number} differs in {differing}" if differing else None

    async def _bytes(self) -> list[str]:
        there = {(tenant, file_id) async for tenant, file_id, _ in self._contents.listed()}
        async with self._database.session() as session:
            found = await session.execute(select(File.tenant, File.id))
            known = {(tenant, file_id) for tenant, file_id in found}
        return [f"the content of {file_id} is missing" for _, file_id in sorted(known - there)]
