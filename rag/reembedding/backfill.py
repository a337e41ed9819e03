"""Backfill: re-embeds what a store has published, file by file, so that a crash costs one file.

Ingestion writes to the active and the building generation; backfill covers older files. A file
deleted meanwhile does not come back: its version is checked after its vectors are written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from rag.database import SqlDatabase
from rag.errors import Refused
from rag.index.embedder_versions import ServedEmbedder
from rag.index.protocols import Collection, VectorIndex, VectorKey, chunk_key
from rag.reembedding import generations as rows
from rag.reembedding.generations import ALL, Progress
from rag.schema import ChunkRow, IndexGeneration, IndexIntent, StoreFile

FILES = 100
"""Files that are read from SQL at a time."""

CHUNKS = 32
"""Chunks of a file that are embedded and written at a time."""

INTENT_S = 900.0
"""Seconds for which recovery does not touch the write of one file."""

GIVEN_UP = "The new vectors were abandoned."

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Build:
    """A generation that is being built, and the embedder that makes its vectors."""

    id: str
    store_id: str
    collection: Collection
    served: ServedEmbedder


@dataclass(frozen=True, slots=True)
class _File:
    id: int
    file_id: str
    version: str


class Backfill:
    """Completes generations that are being built.

    Args:
        database: knows what is published.
        vectors: the vector index.
        clock: returns Unix seconds.
        patience_s: seconds to wait for ingestion that began before the generation existed.
    """

    def __init__(
        self,
        database: SqlDatabase,
        vectors: VectorIndex,
        *,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._clock = clock
        self._patience_s = patience_s

    async def run(self, build: Build, told: Callable[[Progress], None]) -> None:
        """Embed everything published; resume where an earlier run ended, and mark it complete.

        Raises:
            Refused: the generation was abandoned, or earlier ingestion does not finish.
            IndexUnavailable, EngineError: try again.
        """
        await self._vectors.create(build.collection)
        there = await self._positions(build.collection)
        while files := await self._next(build):
            for file in files:
                await self._bring(build, file, there)
            told(await self._progress(build))
        await self._wait_for_earlier_ingestion(build)
        await self._reconcile(build)
        await self._mark(build, ALL)
        told(await self._progress(build))

    async def _next(self, build: Build) -> list[_File]:
        """Return the files after the last completed one."""
        async with self._database.session() as session:
            done = await session.scalar(
                select(IndexGeneration.reembedded_to).where(IndexGeneration.id == build.id)
            )
            if done is None:
                raise Refused(GIVEN_UP)
            return await self._published(session, build, StoreFile.id > done, limit=FILES)

    async def _published(
        self, session: AsyncSession, build: Build, *where: ColumnElement[bool], limit: int
    ) -> list[_File]:
        found = await session.execute(
            select(StoreFile.id, StoreFile.file_id, StoreFile.version)
            .where(StoreFile.store_id == build.store_id, StoreFile.version.is_not(None), *where)
            .order_by(StoreFile.id)
            .limit(limit)
        )
        return [_File(id_, file_id, version or "") for id_, file_id, version in found]

    async def _bring(self, build: Build, file: _File, there: Mapping[str, int]) -> None:
        """Write a file's vectors, unless they exist or the file is gone."""
        chunks = await self._count(file)
        if there.get(file.version, 0) != chunks:
            await self._write_intended(build, file)
        await self._mark(build, file.id)

    async def _write_intended(self, build: Build, file: _File) -> None:
        """Write a file's vectors under an intent, and erase them if the file changed meanwhile."""
        intent = await self._intend(build, file)
        await self._write(build, file)
        async with self._database.session() as session:
            version = await session.scalar(select(StoreFile.version).where(StoreFile.id == file.id))
        if version != file.version:
            await self._vectors.erase(build.collection, file.version)
        async with self._database.transaction() as session:
            await session.execute(delete(IndexIntent).where(IndexIntent.id == intent))

    async def _intend(self, build: Build, file: _File) -> int:
        async with self._database.transaction() as session:
            intent = IndexIntent(
                kind="write", tenant=build.collection.tenant, subject=file.version,
                collection=build.collection.name, until=self._clock() + INTENT_S,
            )  # fmt: skip
            session.add(intent)
            await session.flush()
            return intent.id

    async def _write(self, build: Build, file: _File) -> None:
        position = -1
        while chunks := await self._chunks(file, after=position):
            named = [
                (VectorKey(file.file_id, file.version, place, number), window)
                for place, text in chunks
                for number, window in enumerate(build.served.windows(text))
            ]
            embedded = await build.served.embedder.embed([window for _, window in named])
            vectors = np.asarray(embedded.vectors, dtype=np.float32)
            await self._vectors.write(build.collection, [key for key, _ in named], vectors)
            position = chunks[-1][0]

    async def _chunks(self, file: _File, *, after: int) -> Sequence[tuple[int, str]]:
        async with self._database.session() as session:
            found = await session.execute(
                select(ChunkRow.position, ChunkRow.text)
                .where(
                    ChunkRow.store_file_id == file.id,
                    ChunkRow.version == file.version,
                    ChunkRow.position > after,
                )
                .order_by(ChunkRow.position)
                .limit(CHUNKS)
            )
            return [(position, text) for position, text in found]

    async def _count(self, file: _File) -> int:
        async with self._database.session() as session:
            counted = select(func.count()).where(
                ChunkRow.store_file_id == file.id, ChunkRow.version == file.version
            )
            return await session.scalar(counted) or 0

    async def _mark(self, build: Build, done: int) -> None:
        async with self._database.transaction() as session:
            generation = await session.get(IndexGeneration, build.id)
            if generation is None or generation.state != "building":
                raise Refused(GIVEN_UP)
            generation.reembedded_to = done

    async def _progress(self, build: Build) -> Progress:
        async with self._database.session() as session:
            generation = await session.get(IndexGeneration, build.id)
            if generation is None:
                raise Refused(GIVEN_UP)
            return await rows.progress(session, generation)

    async def _positions(self, collection: Collection) -> Counter[str]:
        """Count the chunks of each version that have vectors."""
        keys: set[str] = set()
        async for ids in self._vectors.ids(collection):
            keys.update(map(chunk_key, ids))
        return Counter(key.rpartition(":")[0] for key in keys)

    async def _wait_for_earlier_ingestion(self, build: Build) -> None:
        """Wait for ingestion that began before this generation, and so does not write to it."""
        ends = self._clock() + self._patience_s
        while await self._earlier_ingestion(build):
            if self._clock() > ends:
                raise Refused("An earlier indexing of a file has not finished; try again later.")
            await asyncio.sleep(_POLL_S)

    async def _earlier_ingestion(self, build: Build) -> bool:
        """Whether a version is being written to the active collection but not to this one."""
        twin = aliased(IndexIntent)
        here = select(twin.id).where(
            twin.kind == "write",
            twin.collection == build.collection.name,
            twin.subject == IndexIntent.subject,
        )
        active = select(IndexGeneration.collection).where(
            IndexGeneration.store_id == build.store_id, IndexGeneration.state == "active"
        )
        found = select(IndexIntent.id).where(
            IndexIntent.kind == "write",
            IndexIntent.collection.in_(active),
            IndexIntent.until > self._clock(),
            ~here.exists(),
        )
        async with self._database.session() as session:
            return await session.scalar(found.limit(1)) is not None

    async def _reconcile(self, build: Build) -> None:
        """Embed what is missing, and erase versions neither published nor being written."""
        there = await self._positions(build.collection)
        published: set[str] = set()
        done = 0
        while files := await self._after(build, done):
            for file in files:
                published.add(file.version)
                if there.get(file.version, 0) != await self._count(file):
                    await self._write_intended(build, file)
            done = files[-1].id
        for version in await self._stale(build, set(there) - published):
            await self._vectors.erase(build.collection, version)

    async def _after(self, build: Build, done: int) -> list[_File]:
        async with self._database.session() as session:
            return await self._published(session, build, StoreFile.id > done, limit=FILES)

    async def _stale(self, build: Build, suspects: set[str]) -> set[str]:
        """Return the suspects that are neither being written nor published by now."""
        if not suspects:
            return suspects
        async with self._database.session() as session:
            written = await session.scalars(
                select(IndexIntent.subject).where(
                    IndexIntent.kind == "write", IndexIntent.collection == build.collection.name
                )
            )
            published = await session.scalars(
                select(StoreFile.version).where(StoreFile.store_id == build.store_id)
            )
            return suspects - set(written) - {version for version in published if version}
