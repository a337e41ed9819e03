"""The check: where vectors, full text, bytes and SQL disagree. It changes nothing.

What is being indexed or erased at the time is left out: it is noted in SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

from sqlalchemy import func, select

from rag.database import Database
from rag.errors import IndexUnavailable
from rag.index.protocols import Collection, TextIndex, VectorIndex, chunk_key
from rag.schema import Chunk, File, IndexGeneration, IndexIntent, StoreFile, VectorStore


class Contents(Protocol):
    """Bytes of files: `Blobs`."""

    def listed(self) -> AsyncIterator[tuple[str, str, float]]:
        """Tenant, file id and Unix seconds of the last change, of all."""
        ...


class Consistency:
    """Compares everything with SQL.

    Args:
        database: the truth.
        vectors: the vector index.
        text: the full-text index.
        contents: bytes of files.
    """

    def __init__(
        self, database: Database, vectors: VectorIndex, text: TextIndex, contents: Contents
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._contents = contents

    async def check(self) -> list[str]:
        """A sentence for each disagreement; none where all agree.

        What is changed between two questions looks like one: only what is there at a second look
        is told.

        Raises:
            IndexUnavailable, OSError: nothing can be said.
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
        """Chunks without vectors where they are searched, and vectors without chunks anywhere."""
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
        """Vectors are read first: what is published meanwhile has them, and is noted before."""
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
                select(StoreFile.version, func.count(Chunk.id))
                .join(Chunk, Chunk.version == StoreFile.version)
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
        """Chunks that are not published, and files that are completed without any."""
        async with self._database.session() as session:
            unpublished = await session.scalars(
                select(Chunk.version)
                .outerjoin(StoreFile, StoreFile.version == Chunk.version)
                .where(StoreFile.id.is_(None))
                .distinct()
            )
            empty = await session.scalars(
                select(StoreFile.id)
                .outerjoin(Chunk, Chunk.version == StoreFile.version)
                .where(StoreFile.status == "completed", Chunk.id.is_(None))
            )
            return [f"chunks of version {one} belong to no file" for one in unpublished] + [
                f"file {one} of a vector store is completed and has no chunks" for one in empty
            ]

    async def _full_text(self) -> list[str]:
        """Of stores that have vectors: one that has expired has neither."""
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
        """The store is held, so that nothing is published meanwhile and its table stays."""
        held = select(VectorStore.id).where(VectorStore.number == number).with_for_update()
        async with self._database.transaction() as session:
            store_id = await session.scalar(held)
            full = select(IndexGeneration.id).where(IndexGeneration.store_id == store_id)
            if await session.scalar(full.limit(1)) is None:
                return None
            chunks = set(
                await session.scalars(select(Chunk.id).where(Chunk.store_number == number))
            )
            differing = len(await self._text.chunk_ids(session, number) ^ chunks)
        return f"full text of store {number} differs in {differing}" if differing else None

    async def _bytes(self) -> list[str]:
        there = {(tenant, file_id) async for tenant, file_id, _ in self._contents.listed()}
        async with self._database.session() as session:
            found = await session.execute(select(File.tenant, File.id))
            known = {(tenant, file_id) for tenant, file_id in found}
        return [f"the content of {file_id} is missing" for _, file_id in sorted(known - there)]
