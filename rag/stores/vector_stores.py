"""Vector stores in SQL: created for an embedder that is served, listed, changed and deleted.

Does not write vectors: a collection is created with the store, and dropped by an intent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict, Unpack

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import SqlDatabase
from rag.errors import NotThere, Refused
from rag.files.files import access_list
from rag.index.protocols import Generation, TextIndex
from rag.pages import Page, PageQuery, page
from rag.reembedding.first_generation import Collections, FirstGenerations, ServedModel, keep
from rag.reembedding.generations import Generations, generations, give_up
from rag.schema import (
    ChunkRow,
    FileBatch,
    IndexGeneration,
    StoreFile,
    VectorStore,
    VectorStoreAccess,
)
from rag.stores.access_lists import Reader, store_readable
from rag.stores.attaching import Attachment, check_usable, expired, readable_store
from rag.stores.named_stores import store_named, take_turns
from rag.stores.store_files import StoreFiles
from rag.stores.store_records import FileCounts, StoreRecord, listed_stores, store_records

__all__ = [
    "Collections",
    "FileCounts",
    "ServedModel",
    "StoreChanges",
    "StoreRecord",
    "VectorStores",
]


class StoreChanges(TypedDict, total=False):
    """Values of a store to change; missing keys stay unchanged."""

    name: str
    metadata: Mapping[str, str]
    expires_after_days: int | None
    access: Sequence[str]


class VectorStores:
    """Manages the vector stores of all tenants.

    Args:
        collections: creates the collections of their vectors.
        embedders: the embedders that are served, by model.
        default_model: the embedding model of stores that name none.
        store_files: attaches the files with which a store is created.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        text: TextIndex,
        *,
        collections: Collections,
        embedders: Mapping[str, ServedModel],
        default_model: str,
        store_files: StoreFiles,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._text = text
        self._first = FirstGenerations(
            database, collections, embedders=embedders, default_model=default_model, clock=clock
        )
        self._store_files = store_files
        self._clock = clock

    async def create(
        self,
        reader: Reader,
        *,
        name: str,
        description: str | None = None,
        metadata: Mapping[str, str],
        expires_after_days: int | None = None,
        access: Sequence[str] | None = None,
        embedding_model: str | None = None,
        file_ids: Sequence[str] = (),
        chunking: tuple[int, int] | None = None,
        reuse: bool = False,
    ) -> StoreRecord:
        """Create a store, and attach files to it.

        Args:
            reader: the owner.
            name: name of the store; may be empty.
            description: optional text for readers.
            metadata: the client's key-value pairs.
            expires_after_days: days without use until the store expires; None for no expiry.
            access: entries that may read the store; None grants the reader's narrowest entries.
            embedding_model: model of the store; None selects the default.
            file_ids: files to attach.
            chunking: tokens of their chunks and overlaps; None selects `AUTO_TOKENS`.
            reuse: whether to return the existing store of this name, if the reader can see one.
                Concurrent callers create one store between them.

        Raises:
            NotThere: the reader may not see a file.
            Ambiguous: with `reuse`, several stores have the name.
            Refused: the access list, the model or a file cannot be used.
            TooMany: there are more files than a store holds.
            IndexUnavailable, EngineError: nothing was created.
        """
        entries = access_list(reader, access)
        self._first.refuse_unknown(embedding_model)
        async with self._database.session() as session:
            now = self._clock()
            if reuse and (there := await self._named(session, reader, name)) is not None:
                return there
            await check_usable(session, reader, file_ids, now=now, param="file_ids")
        store_id = f"vs_{uuid.uuid4().hex}"
        generation = await self._first.make(store_id, reader.tenant, embedding_model)
        now = int(self._clock())
        store = VectorStore(
            id=store_id, tenant=reader.tenant, name=name, description=description,
            details=dict(metadata), created_at=now, last_active_at=now,
            expires_after_days=expires_after_days,
        )  # fmt: skip
        files: list[Attachment] = [(file_id, {}, chunking) for file_id in file_ids]
        async with self._database.transaction() as session:
            if reuse:
                await take_turns(session, self._database.dialect, reader.tenant, name)
                if (there := await self._named(session, reader, name)) is not None:
                    return there  # An intent drops the collection that was created above.
            await self._add(session, reader, store, generation, entries=entries, files=files)
            return await self._record(session, reader, store_id)

    async def get(self, reader: Reader, store_id: str) -> StoreRecord:
        """Return a store.

        Raises:
            NotThere: the reader may not see the store.
        """
        async with self._database.session() as session:
            return await self._record(session, reader, store_id)

    async def list(self, reader: Reader, query: PageQuery) -> Page[StoreRecord]:
        """Return a page of the stores, by creation time.

        Raises:
            Refused: the cursor is not in the list.
        """
        key = (VectorStore.created_at, VectorStore.id)
        async with self._database.session() as session:
            found = await page(session, listed_stores(reader), query, key)
            records = await store_records(session, reader, found.rows, now=self._clock())
            return Page(records, found.has_more)

    async def modify(
        self, reader: Reader, store_id: str, **changes: Unpack[StoreChanges]
    ) -> StoreRecord:
        """Change a store's name, metadata, expiry or access list.

        Raises:
            NotThere: as for `get`.
            Refused: the access list is invalid, or the store has expired.
        """
        entries = access_list(reader, changes["access"]) if "access" in changes else None
        async with self._database.transaction() as session:
            store = await readable_store(session, reader, store_id, lock=True)
            if expired(store, self._clock()):
                raise Refused("The vector store has expired; it can no longer be changed.")
            store.name = changes.get("name", store.name)
            store.details = dict(changes.get("metadata", store.details))
            store.expires_after_days = changes.get("expires_after_days", store.expires_after_days)
            if entries is not None:
                listed = VectorStoreAccess.store_id == store_id
                await session.execute(delete(VectorStoreAccess).where(listed))
                session.add_all(_access(store_id, entries))
            await session.flush()
            return await self._record(session, reader, store_id)

    async def delete(self, reader: Reader, store_id: str) -> None:
        """Delete a store and its contents; the files themselves stay.

        Raises:
            NotThere: as for `get`.
        """
        async with self._database.transaction() as session:
            store = await readable_store(session, reader, store_id, lock=True)
            await empty_store(session, self._text, store)
            await session.execute(delete(VectorStore).where(VectorStore.id == store_id))

    async def generations(self, reader: Reader, store_ids: Sequence[str]) -> Sequence[Generation]:
        """Return the generation that is searched for each store, in the order of the stores.

        Raises:
            NotThere: the reader may not see a store, or it has expired or has no vectors.
        """
        asked = (
            select(IndexGeneration, VectorStore)
            .join(VectorStore, VectorStore.id == IndexGeneration.store_id)
            .where(VectorStore.id.in_(store_ids), store_readable(reader))
            .where(IndexGeneration.state == "active")
        )
        now = self._clock()
        async with self._database.session() as session:
            found = {
                store.id: Generations(store.tenant, active=row).value(row)
                for row, store in await session.execute(asked)
                if not expired(store, now)
            }
        if not found.keys() >= set(store_ids):
            raise NotThere("No such vector store.")
        return [found[store_id] for store_id in store_ids]

    async def _add(
        self,
        session: AsyncSession,
        reader: Reader,
        store: VectorStore,
        generation: IndexGeneration,
        *,
        entries: Sequence[str],
        files: Sequence[Attachment],
    ) -> None:
        """Add a store with its access list, vectors, full-text table and files."""
        session.add(store)
        await session.flush()
        session.add_all(_access(store.id, entries))
        await keep(session, reader.tenant, generation)
        await self._text.create(session, store.number)
        await self._store_files.attach_all(session, reader, store.id, files, param="file_ids")

    async def _named(self, session: AsyncSession, reader: Reader, name: str) -> StoreRecord | None:
        store_id = await store_named(session, reader, name, now=self._clock())
        return None if store_id is None else await self._record(session, reader, store_id)

    async def _record(self, session: AsyncSession, reader: Reader, store_id: str) -> StoreRecord:
        found = await session.execute(listed_stores(reader).where(VectorStore.id == store_id))
        records = await store_records(session, reader, found.all(), now=self._clock())
        if not records:
            raise NotThere("No such vector store.")
        return records[0]


async def empty_store(session: AsyncSession, text: TextIndex, store: VectorStore) -> None:
    """Remove everything in a store, its full-text table included. Intents drop its collections.

    Args:
        session: a transaction.
        text: the full-text index.
        store: a locked row.
    """
    found = await generations(session, store.id)
    for generation in found.all:
        await give_up(session, found, generation)
    await text.drop(session, store.number)
    await session.execute(delete(ChunkRow).where(ChunkRow.store_number == store.number))
    for kind in (FileBatch, StoreFile):
        await session.execute(delete(kind).where(kind.store_id == store.id))


def _access(store_id: str, entries: Iterable[str]) -> Iterable[VectorStoreAccess]:
    return (VectorStoreAccess(store_id=store_id, entry=entry) for entry in entries)
