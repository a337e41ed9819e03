"""File batches: files that one request attached to a vector store, and their progress."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import CursorResult, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import SqlDatabase
from rag.errors import NotThere
from rag.index.protocols import TextIndex
from rag.ingestion.publication import withdraw
from rag.pages import Page, PageQuery
from rag.schema import BatchFile, FileBatch, StoreFile
from rag.stores.access_lists import Reader
from rag.stores.attaching import Attachment, parts, readable_store
from rag.stores.store_files import StoreFileRecord, StoreFiles, files_page, readable_files
from rag.stores.store_records import FileCounts

BatchStatus = Literal["in_progress", "completed", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as its readers see it; files that they may not read are not counted."""

    id: str
    created_at: int
    store_id: str
    status: BatchStatus
    counts: FileCounts


class FileBatches:
    """Creates, reads and cancels the file batches of all vector stores.

    Args:
        store_files: attaches the files.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
        text: TextIndex,
        *,
        store_files: StoreFiles,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._text = text
        self._store_files = store_files
        self._clock = clock

    async def create(
        self, reader: Reader, store_id: str, files: Sequence[Attachment]
    ) -> BatchRecord:
        """Attach files to a store, all or none.

        Raises:
            NotThere: the reader may not see the store or a file.
            Refused: the store has expired, or a file has the purpose `batch`.
            TooMany: the store is full.
        """
        batch_id = f"vsfb_{uuid.uuid4().hex}"
        async with self._database.transaction() as session:
            rows = await self._store_files.attach_all(
                session, reader, store_id, files, param="file_ids"
            )  # fmt: skip
            now = int(self._clock())
            batch = FileBatch(id=batch_id, store_id=store_id, created_at=now, cancelled=False)
            session.add(batch)
            await session.flush()
            await session.execute(
                insert(BatchFile), [{"batch_id": batch_id, "store_file_id": row} for row in rows]
            )
            return await self._record(session, reader, batch)

    async def get(self, reader: Reader, store_id: str, batch_id: str) -> BatchRecord:
        """Return a batch.

        Raises:
            NotThere: the reader may not see the store, or the batch does not exist.
        """
        async with self._database.session() as session:
            batch = await _batch(session, reader, store_id, batch_id)
            return await self._record(session, reader, batch)

    async def cancel(self, reader: Reader, store_id: str, batch_id: str) -> BatchRecord:
        """Cancel the reader's files in a batch; files already being indexed are not published.

        Raises:
            NotThere: as for `get`.
        """
        async with self._database.transaction() as session:
            batch = await _batch(session, reader, store_id, batch_id, lock=True)
            waiting = self._files(reader, batch_id).where(StoreFile.status == "in_progress")
            indexed = waiting.where(StoreFile.version.is_not(None))
            found = await session.scalars(indexed.with_only_columns(StoreFile.file_id))
            for some in parts(found.all()):
                await withdraw(session, self._text, store_id, some)
            ended = await session.execute(
                update(StoreFile)
                .where(StoreFile.id.in_(waiting.with_only_columns(StoreFile.id).correlate(None)))
                .values(status="cancelled", lease_owner=None, lease_until=0.0)
                .execution_options(synchronize_session=False)
            )
            batch.cancelled |= isinstance(ended, CursorResult) and ended.rowcount > 0
            return await self._record(session, reader, batch)

    async def list(
        self,
        reader: Reader,
        store_id: str,
        batch_id: str,
        query: PageQuery,
        *,
        status: str | None = None,
    ) -> Page[StoreFileRecord]:
        """Return a page of the files of a batch, by the time they were attached.

        Raises:
            NotThere: as for `get`.
            Refused: the cursor is not in the list.
        """
        async with self._database.session() as session:
            await _batch(session, reader, store_id, batch_id)
            return await files_page(session, self._files(reader, batch_id), query, status)

    def _files(self, reader: Reader, batch_id: str) -> Select[StoreFile]:
        in_batch = (BatchFile.batch_id == batch_id) & (BatchFile.store_file_id == StoreFile.id)
        return readable_files(reader, self._clock()).where(in_batch)

    async def _record(self, session: AsyncSession, reader: Reader, batch: FileBatch) -> BatchRecord:
        found = await session.execute(
            self._files(reader, batch.id)
            .with_only_columns(StoreFile.status, func.count())
            .group_by(StoreFile.status)
        )
        counts = FileCounts.of({row[0]: row[1] for row in found})
        return BatchRecord(
            id=batch.id,
            created_at=batch.created_at,
            store_id=batch.store_id,
            status=_status(counts, cancelled=batch.cancelled),
            counts=counts,
        )


async def _batch(
    session: AsyncSession, reader: Reader, store_id: str, batch_id: str, *, lock: bool = False
) -> FileBatch:
    """Return a batch of a store that the reader may see; `lock` locks the store."""
    await readable_store(session, reader, store_id, lock=lock)
    found = select(FileBatch).where(FileBatch.id == batch_id, FileBatch.store_id == store_id)
    if (batch := await session.scalar(found)) is None:
        raise NotThere("No such file batch.")
    return batch


def _status(counts: FileCounts, *, cancelled: bool) -> BatchStatus:
    if cancelled:
        return "cancelled"
    if counts.in_progress:
        return "in_progress"
    return "failed" if counts.failed == counts.total > 0 else "completed"
