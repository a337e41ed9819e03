"""Recovery: completes the work recorded in SQL, and removes data that SQL does not know.

Runs continuously and after every crash. Nothing else erases vectors of unpublished versions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, delete, exists, select, update

from models.background import BackgroundLoop
from rag.database import SqlDatabase
from rag.files.expiry import Expiry
from rag.index.protocols import Collection, TextIndex, VectorIndex, chunk_key
from rag.schema import File, IndexGeneration, IndexIntent, StoreFile, VectorStore

INTENTS = 100
"""Intents that are read from SQL at a time."""

ABANDONED_S = 3600.0
"""Age after which bytes without a file row are removed. An upload may take this long."""


class BlobSweeper(Protocol):
    """Lists and removes stored blobs; `Blobs` does."""

    async def delete(self, tenant: str, file_id: str) -> None:
        """Remove the bytes of a file, if there are any."""
        ...

    def listed(self) -> AsyncIterator[tuple[str, str, float]]:
        """Yield tenant, file id and modification time (Unix seconds) of every blob."""
        ...

    async def sweep_drafts(self, older_than: float) -> None:
        """Remove interrupted uploads that were last written before these Unix seconds."""
        ...


@dataclass(frozen=True, slots=True)
class _Intent:
    id: int
    kind: str
    tenant: str
    subject: str
    collection: str | None


class Recovery:
    """Carries out intents, and sweeps for data that SQL does not know.

    Args:
        database: the source of truth.
        vectors: the vector index.
        text: the full-text index.
        contents: the blob store.
        expiry: removes files and stores that have expired.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        vectors: VectorIndex,
        text: TextIndex,
        *,
        contents: BlobSweeper,
        expiry: Expiry,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._contents = contents
        self._expiry = expiry
        self._clock = clock

    def loops(self, *, poll_s: float, sweep_s: float) -> list[BackgroundLoop]:
        """The loop that settles and sweeps. If it is woken, it looks for intents at once.

        Args:
            poll_s: time between two looks for intents of a loop that nobody wakes.
            sweep_s: time between two sweeps; the first one is immediate.
        """
        due = self._clock()

        async def step() -> None:
            nonlocal due
            await self.settle()
            if self._clock() >= due:
                await self.sweep()
                due = self._clock() + sweep_s

        return [BackgroundLoop("recovery", step, every_s=poll_s, at_once=True)]

    async def settle(self) -> None:
        """Remove what has expired, and carry out the intents that are due.

        Raises:
            IndexUnavailable, OSError: the rest stays recorded.
        """
        while await self._expiry.expire():
            pass
        await self._give_up_writes()
        while intents := await self._due():
            for intent in intents:
                await self._do(intent)

    async def sweep(self) -> None:
        """Remove collections, vectors, full text and bytes that SQL does not know.

        Raises:
            IndexUnavailable, OSError: the next sweep does the rest.
        """
        for collection in await self._vectors.collections():
            if await self._unknown(collection):
                await self._vectors.drop(collection)
            else:
                await self._erase_strays(collection)
        await self._drop_text()
        await self._remove_bytes()

    async def _give_up_writes(self) -> None:
        """Erase the unpublished vectors of writers whose lease has run out."""
        left = (IndexIntent.kind == "write") & (IndexIntent.until <= self._clock())
        published = exists().where(StoreFile.version == IndexIntent.subject)
        if not await self._there(left):
            return  # This runs every second, and a transaction takes the write lock.
        async with self._database.transaction() as session:
            await session.execute(delete(IndexIntent).where(left, published))
            await session.execute(
                update(IndexIntent).where(left, ~published).values(kind="erase", until=0.0)
            )

    async def _due(self) -> list[_Intent]:
        columns = (
            *(IndexIntent.id, IndexIntent.kind, IndexIntent.tenant),
            *(IndexIntent.subject, IndexIntent.collection),
        )
        asked = (
            select(*columns)
            .where(IndexIntent.kind != "write", IndexIntent.until <= self._clock())
            .order_by(IndexIntent.id)
            .limit(INTENTS)
        )
        async with self._database.session() as session:
            return [_Intent(*row) for row in await session.execute(asked)]

    async def _do(self, intent: _Intent) -> None:
        """Carry out an intent, then delete it. Carrying it out twice does no harm."""
        if intent.kind == "blob":
            if not await self._there(File.id == intent.subject):
                await self._contents.delete(intent.tenant, intent.subject)
        elif intent.kind == "drop":
            if not await self._there(IndexGeneration.collection == intent.subject):
                await self._vectors.drop(Collection(intent.tenant, intent.subject))
        elif not await self._there(StoreFile.version == intent.subject):
            collection = Collection(intent.tenant, intent.collection or "")
            await self._vectors.erase(collection, intent.subject)
        async with self._database.transaction() as session:
            await session.execute(delete(IndexIntent).where(IndexIntent.id == intent.id))

    async def _there(self, what: ColumnElement[bool]) -> bool:
        async with self._database.session() as session:
            return bool(await session.scalar(select(exists().where(what))))

    async def _unknown(self, collection: Collection) -> bool:
        """Whether a collection belongs to no generation, and none is being made for it."""
        return not (
            await self._there(IndexGeneration.collection == collection.name)
            or await self._there(IndexIntent.subject == collection.name)
            or await self._there(IndexGeneration.collection == collection.name)
        )  # The last look finds a generation that was completed between the first two.

    async def _erase_strays(self, collection: Collection) -> None:
        """Erase versions that are neither published nor being written, left by a crashed writer."""
        there: set[str] = set()
        async for ids in self._vectors.ids(collection):
            there.update(chunk_key(one).rpartition(":")[0] for one in ids)
        async with self._database.session() as session:
            # The order matters: a version has an intent before it is published.
            noted = set(await session.scalars(select(IndexIntent.subject)))
            published = await session.scalars(
                select(StoreFile.version)
                .join(IndexGeneration, IndexGeneration.store_id == StoreFile.store_id)
                .where(IndexGeneration.collection == collection.name)
            )
            strays = there - noted - set(published)
        for version in strays:
            await self._vectors.erase(collection, version)

    async def _drop_text(self) -> None:
        """Drop the full-text tables of stores that were deleted with their tenant."""
        async with self._database.transaction() as session:
            there = await self._text.stores(
                session
            )  # Read first: a new store's row and its table commit together.
            known = set(await session.scalars(select(VectorStore.number)))
            for number in there:
                if number not in known:
                    await self._text.drop(session, number)

    async def _remove_bytes(self) -> None:
        """Remove bytes of files deleted with their tenant, and of interrupted uploads."""
        border = self._clock() - ABANDONED_S
        await self._contents.sweep_drafts(border)
        async for tenant, file_id, changed in self._contents.listed():
            if changed < border and not await self._there(File.id == file_id):
                await self._contents.delete(tenant, file_id)
