"""Files in vector stores: attached, listed and detached. Indexing is done elsewhere.

A reader sees only those files of a store that it may read itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import SqlDatabase
from rag.errors import NotThere, Refused
from rag.files.files import attached_file_there, locked_file, remove_file
from rag.index.protocols import TextIndex
from rag.ingestion.publication import withdraw
from rag.pages import Page, PageQuery, page
from rag.schema import ChunkRow, StoreFile
from rag.stores.access_lists import Reader
from rag.stores.attaching import Attachment, attach_all, readable_store

MAX_FILES = 10_000
"""Default maximum of files in one store."""


@dataclass(frozen=True, slots=True)
class StoreFileRecord:
    """A file in a store as its readers see it."""

    file_id: str
    store_id: str
    created_at: int
    status: str
    error_code: str | None
    error_message: str | None
    attributes: Mapping[str, Any]
    chunk_tokens: int
    overlap_tokens: int
    usage_bytes: int

    @classmethod
    def of(cls, row: StoreFile) -> StoreFileRecord:
        """Convert a row."""
        return cls(
            file_id=row.file_id,
            store_id=row.store_id,
            created_at=row.created_at,
            status=row.status,
            error_code=row.error_code,
            error_message=row.error_message,
            attributes=row.attributes,
            chunk_tokens=row.chunk_tokens,
            overlap_tokens=row.overlap_tokens,
            usage_bytes=row.usage_bytes,
        )


class StoreFiles:
    """Manages the files in all vector stores.

    Args:
        max_files: maximum files in one store.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        text: TextIndex,
        *,
        max_files: int = MAX_FILES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._text = text
        self._max_files = max_files
        self._clock = clock

    async def attach(
        self,
        reader: Reader,
        store_id: str,
        file_id: str,
        *,
        attributes: Mapping[str, Any],
        chunking: tuple[int, int] | None,
    ) -> StoreFileRecord:
        """Attach a file for indexing.

        A file that is already attached gets the new attributes, and is indexed again if necessary.

        Raises:
            NotThere: the reader may not see the store or the file.
            Refused: the store has expired, or the file has the purpose `batch`.
            TooMany: the store is full.
        """
        files = [(file_id, attributes, chunking)]
        async with self._database.transaction() as session:
            await self.attach_all(session, reader, store_id, files, param="file_id")
            return await self._record(session, reader, store_id, file_id)

    async def attach_all(
        self,
        session: AsyncSession,
        reader: Reader,
        store_id: str,
        files: Sequence[Attachment],
        *,
        param: str,
    ) -> list[int]:
        """Attach files in the caller's transaction, all or none; returns their `store_files.id`.

        If a file is named twice, the last entry counts.

        Raises:
            NotThere, Refused, TooMany: as for `attach`; `param` names the request field.
        """
        return await attach_all(
            session, reader, store_id, files,
            now=self._clock(), max_files=self._max_files, param=param,
        )  # fmt: skip

    async def list(
        self,
        reader: Reader,
        store_id: str,
        query: PageQuery,
        *,
        status: str | None = None,
    ) -> Page[StoreFileRecord]:
        """Return a page of the files, by the time they were attached.

        Raises:
            NotThere: the reader may not see the store.
            Refused: the cursor is not in the list.
        """
        async with self._database.session() as session:
            await readable_store(session, reader, store_id)
            return await files_page(session, self._listed(reader, store_id), query, status)

    async def get(self, reader: Reader, store_id: str, file_id: str) -> StoreFileRecord:
        """Return a file in a store.

        Raises:
            NotThere: the reader may not see the store or the file.
        """
        async with self._database.session() as session:
            return await self._record(session, reader, store_id, file_id)

    async def set_attributes(
        self, reader: Reader, store_id: str, file_id: str, *, attributes: Mapping[str, Any]
    ) -> StoreFileRecord:
        """Replace a file's attributes, which searches can filter by.

        Raises:
            NotThere: as for `get`.
        """
        async with self._database.transaction() as session:
            row = await self._row(session, reader, store_id, file_id, lock=True)
            row.attributes = dict(attributes)
            return StoreFileRecord.of(row)

    async def detach(
        self, reader: Reader, store_id: str, file_id: str, *, delete_unused: bool = False
    ) -> None:
        """Remove a file from a store. Intents remove its vectors.

        Args:
            reader: the caller.
            store_id: the store.
            file_id: the file.
            delete_unused: whether to delete the file too if no other store has it, including stores
                that the reader may not see.

        Raises:
            NotThere: as for `get`.
        """
        async with self._database.transaction() as session:
            file = None
            if delete_unused:  # Files are locked before stores; see `rag.files.files.remove_file`.
                file = await locked_file(session, reader, file_id, now=self._clock())
            row = await self._row(session, reader, store_id, file_id)
            await withdraw(session, self._text, store_id, [file_id])
            await session.execute(delete(StoreFile).where(StoreFile.id == row.id))
            if file is not None and not await _is_held(session, file_id):
                await remove_file(session, self._text, file)

    async def content(self, reader: Reader, store_id: str, file_id: str) -> Sequence[str]:
        """Return the texts of a file's chunks, in reading order.

        Raises:
            NotThere: as for `get`.
            Refused: the file is not indexed.
        """
        async with self._database.session() as session:
            row = await self._row(session, reader, store_id, file_id)
            if row.status != "completed":
                raise Refused(
                    f"The file has no content: its status is {row.status}, not completed."
                )
            published = (ChunkRow.store_file_id == row.id) & (ChunkRow.version == row.version)
            texts = select(ChunkRow.text).where(published).order_by(ChunkRow.position)
            return (await session.scalars(texts)).all()

    async def _record(
        self, session: AsyncSession, reader: Reader, store_id: str, file_id: str
    ) -> StoreFileRecord:
        return StoreFileRecord.of(await self._row(session, reader, store_id, file_id))

    async def _row(
        self,
        session: AsyncSession,
        reader: Reader,
        store_id: str,
        file_id: str,
        *,
        lock: bool = False,
    ) -> StoreFile:
        await readable_store(session, reader, store_id)
        found = self._listed(reader, store_id).where(StoreFile.file_id == file_id)
        row = await session.scalar(found.with_for_update(of=StoreFile) if lock else found)
        if row is None:
            raise NotThere("No such file in this vector store.")
        return row

    def _listed(self, reader: Reader, store_id: str) -> Select[StoreFile]:
        return readable_files(reader, self._clock()).where(StoreFile.store_id == store_id)


def readable_files(reader: Reader, now: float) -> Select[StoreFile]:
    """Select the files in stores that the reader may see."""
    return select(StoreFile).where(attached_file_there(reader, now))


async def _is_held(session: AsyncSession, file_id: str) -> bool:
    """Whether any store still has the file."""
    holder = select(StoreFile.id).where(StoreFile.file_id == file_id).limit(1)
    return await session.scalar(holder) is not None


async def files_page(
    session: AsyncSession, listed: Select[StoreFile], query: PageQuery, status: str | None
) -> Page[StoreFileRecord]:
    """Return a page of files in a store, optionally of one status only.

    Raises:
        Refused: the cursor is not in the list.
    """
    only = None if status is None else StoreFile.status == status
    found = await page(session, listed, query, (StoreFile.created_at, StoreFile.file_id), only=only)
    return found.each(lambda row: StoreFileRecord.of(row[0]))
