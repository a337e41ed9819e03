"""Vector stores in SQL: made with an embedder that is served, listed, changed and deleted.

Vectors are not written here: a collection is made, and goes by an intent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict, Unpack

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import Database
from rag.errors import NotThere, Refused
from rag.files.files import access_list
from rag.index.protocols import Generation, TextIndex
from rag.pages import Page, PageQuery, page
from rag.reembedding.first_generation import Collections, FirstGenerations, ServedModel, keep
from rag.reembedding.generations import Generations, generations, give_up
from rag.schema import (
    Chunk,
    FileBatch,
    IndexGeneration,
    StoreFile,
    VectorStore,
    VectorStoreAccess,
)
from rag.stores.access_lists import Reader, store_readable
from rag.stores.attaching import check_usable, expired, readable_store
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
    """What of a store is to be changed; the rest stays."""

    name: str
    metadata: Mapping[str, str]
    expires_after_days: int | None
    access: Sequence[str]


class VectorStores:
    """The vector stores of all tenants.

    Args:
        database: where they are.
        text: the full-text index, in which each has a table.
        collections: where their vectors will be.
        embedders: that are served, by model.
        default_model: for stores that do not say which.
        store_files: takes the files with which a store is made.
        clock: Unix seconds.
    """

    def __init__(
        self,
        database: Database,
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
        """Make a store, and have files indexed in it.

        Args:
            reader: whose it is.
            name: may be empty.
            description: or none.
            metadata: the client's.
            expires_after_days: without use; None: never.
            access: who may read it; None: the narrowest list that the reader is on.
            embedding_model: None: the default.
            file_ids: to attach.
            chunking: tokens of their chunks and overlaps; None: as we like it.
            reuse: whether to return the store of this name as it is, if the reader can read one.
                Of callers that ask so at once, one makes it.

        Raises:
            NotThere: no such file for this reader.
            Ambiguous: with `reuse`, several stores have the name.
            Refused: the access list, the model or a file cannot be used.
            TooMany: more files than a store takes.
            IndexUnavailable, EngineError: nothing was made.
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
        async with self._database.transaction() as session:
            if reuse:
                await take_turns(session, self._database.dialect, reader.tenant, name)
                if (there := await self._named(session, reader, name)) is not None:
                    return there  # Its collection is there; the one made here goes by its intent.
            session.add(store)
            await session.flush()
            session.add_all(_access(store_id, entries))
            await keep(session, reader.tenant, generation)
            await self._text.create(session, store.number)
            await self._store_files.attach_all(
                session, reader, store_id, [(file_id, {}, chunking) for file_id in file_ids],
                param="file_ids",
            )  # fmt: skip
            return await self._record(session, reader, store_id)

    async def get(self, reader: Reader, store_id: str) -> StoreRecord:
        """A store.

        Raises:
            NotThere: no such store for this reader.
        """
        async with self._database.session() as session:
            return await self._record(session, reader, store_id)

    async def list(self, reader: Reader, query: PageQuery) -> Page[StoreRecord]:
        """A page of the stores, by when they were made.

        Raises:
            Refused: no such cursor.
        """
        key = (VectorStore.created_at, VectorStore.id)
        async with self._database.session() as session:
            found = await page(session, listed_stores(reader), query, key)
            records = await store_records(session, reader, found.rows, now=self._clock())
            return Page(records, found.has_more)

    async def modify(
        self, reader: Reader, store_id: str, **changes: Unpack[StoreChanges]
    ) -> StoreRecord:
        """Change some of what a store says of itself.

        Raises:
            NotThere: as of `get`.
            Refused: the access list cannot be used, or the store has expired.
        """
        entries = access_list(reader, changes["access"]) if "access" in changes else None
        async with self._database.transaction() as session:
            store = await readable_store(session, reader, store_id, lock=True)
            if expired(store, self._clock()):
                raise Refused("The vector store has expired; it cannot be changed any more.")
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
        """Delete a store with all that is in it; the files themselves stay.

        Raises:
            NotThere: as of `get`.
        """
        async with self._database.transaction() as session:
            store = await readable_store(session, reader, store_id, lock=True)
            await empty_store(session, self._text, store)
            await session.execute(delete(VectorStore).where(VectorStore.id == store_id))

    async def generations(self, reader: Reader, store_ids: Sequence[str]) -> Sequence[Generation]:
        """The vectors in which each of the stores is searched, in the order of the stores.

        Raises:
            NotThere: one is not there for this reader, expired, or has no vectors.
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
    """Remove all that is in a store, its table and its vectors too; collections go by intents.

    Args:
        session: a transaction.
        text: the full-text index.
        store: locked.
    """
    found = await generations(session, store.id)
    for generation in found.all:
        await give_up(session, found, generation)
    await text.drop(session, store.number)
    await session.execute(delete(Chunk).where(Chunk.store_number == store.number))
    for kind in (FileBatch, StoreFile):
        await session.execute(delete(kind).where(kind.store_id == store.id))


def _access(store_id: str, entries: Iterable[str]) -> Iterable[VectorStoreAccess]:
    return (VectorStoreAccess(store_id=store_id, entry=entry) for entry in entries)
