"""Files in SQL: created, listed, changed and deleted by readers who may see them.

Does not handle bytes: they are in the blob store, and are removed by an intent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import SqlDatabase
from rag.errors import NotThere, Refused
from rag.index.protocols import TextIndex
from rag.ingestion.publication import intend_blob_removal, withdraw
from rag.pages import Page, PageQuery, page
from rag.schema import File, FileAccess, StoreFile
from rag.stores.access_lists import ENTRY, MAX_ENTRIES, Reader, file_readable

NO_FILE = "No such file."


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as its readers see it. Times are Unix seconds."""

    id: str
    tenant: str
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    sha256: str
    access: Sequence[str]
    privacy: str
    media_type: str


class Files:
    """Manages the file rows of all tenants.

    Args:
        clock: returns Unix seconds.
    """

    def __init__(
        self, database: SqlDatabase, text: TextIndex, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._text = text
        self._clock = clock

    async def create(
        self,
        reader: Reader,
        *,
        file_id: str,
        filename: str,
        purpose: str,
        media_type: str,
        size: int,
        sha256: str,
        privacy: str,
        access: Sequence[str] | None,
        expires_after_s: int | None,
    ) -> FileRecord:
        """Add a file whose bytes are already in the blob store.

        Args:
            reader: the uploader.
            file_id: id of the blob.
            filename: name given by the uploader.
            purpose: one of the API's purposes.
            media_type: type detected from the content.
            size: in bytes.
            sha256: hash of the bytes, in hexadecimal.
            privacy: loosest privacy class of a request that may contain a passage of the file.
            access: entries that may read the file; None grants the reader's narrowest entries.
            expires_after_s: lifetime in seconds; None for no expiry.

        Raises:
            Refused: the access list is invalid.
        """
        entries = access_list(reader, access)
        now = int(self._clock())
        file = File(
            id=file_id, tenant=reader.tenant, filename=filename, purpose=purpose,
            media_type=media_type, bytes=size, sha256=sha256, privacy=privacy, created_at=now,
            expires_at=None if expires_after_s is None else now + expires_after_s,
        )  # fmt: skip
        async with self._database.transaction() as session:
            session.add(file)
            await session.flush()
            session.add_all(_access(file_id, entries))
        return _record(file, entries)

    async def get(self, reader: Reader, file_id: str) -> FileRecord:
        """Return a file.

        Raises:
            NotThere: the file does not exist, has expired, or the reader may not see it.
        """
        async with self._database.session() as session:
            return await self._record(session, reader, file_id)

    async def list(
        self, reader: Reader, query: PageQuery, *, purpose: str | None = None
    ) -> Page[FileRecord]:
        """Return a page of the files, by creation time.

        Raises:
            Refused: the cursor is not in the list.
        """
        only = None if purpose is None else File.purpose == purpose
        async with self._database.session() as session:
            key = (File.created_at, File.id)
            found = await page(session, self._listed(reader), query, key, only=only)
            return found.each(lambda row: _record(row[0], row[1].split(",")))

    async def modify(
        self,
        reader: Reader,
        file_id: str,
        *,
        access: Sequence[str] | None = None,
        privacy: str | None = None,
    ) -> FileRecord:
        """Change the access list or the privacy class of a file; None leaves a value unchanged.

        Raises:
            NotThere: as for `get`.
            Refused: the access list is invalid.
        """
        entries = None if access is None else access_list(reader, access)
        async with self._database.transaction() as session:
            file = await self._locked(session, reader, file_id)
            file.privacy = privacy or file.privacy
            if entries is not None:
                await session.execute(delete(FileAccess).where(FileAccess.file_id == file_id))
                session.add_all(_access(file_id, entries))
            await session.flush()
            return await self._record(session, reader, file_id)

    async def delete(self, reader: Reader, file_id: str) -> None:
        """Delete a file and remove it from its stores. Intents remove its bytes and vectors.

        Raises:
            NotThere: as for `get`.
        """
        async with self._database.transaction() as session:
            file = await self._locked(session, reader, file_id)
            await remove_file(session, self._text, file)

    async def _record(self, session: AsyncSession, reader: Reader, file_id: str) -> FileRecord:
        found = await session.execute(self._listed(reader).where(File.id == file_id))
        if (row := found.one_or_none()) is None:
            raise NotThere(NO_FILE)
        file, access = row
        return _record(file, access.split(","))

    async def _locked(self, session: AsyncSession, reader: Reader, file_id: str) -> File:
        file = await locked_file(session, reader, file_id, now=self._clock())
        if file is None:
            raise NotThere(NO_FILE)
        return file

    def _listed(self, reader: Reader) -> Select[File, str]:
        return select(File, _ACCESS).where(file_there(reader, self._clock()))


def file_there(reader: Reader, now: float) -> ColumnElement[bool]:
    """Whether the current `files` row is readable for a reader and has not expired."""
    return file_readable(reader) & or_(File.expires_at.is_(None), File.expires_at > now)


def attached_file_there(reader: Reader, now: float) -> ColumnElement[bool]:
    """Apply `file_there` to the file of the current `store_files` row.

    Written as EXISTS: with a join, SQLite would start from all files of the tenant.
    """
    return exists().where(File.id == StoreFile.file_id, file_there(reader, now))


def access_list(reader: Reader, asked: Sequence[str] | None) -> Sequence[str]:
    """Return the access list of a new object; None stands for the reader's narrowest entries.

    Raises:
        Refused: the list is too long, malformed, or excludes the reader.
    """
    if asked is None:
        return reader.own
    entries = sorted(set(asked))
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise Refused(f"access: must have 1 to {MAX_ENTRIES} entries.", param="access")
    for entry in entries:
        if not ENTRY.fullmatch(entry):
            raise Refused(
                f"access: {entry!r} is not tenant, group:<name> or user:<name>.", param="access"
            )
    if reader.entries.isdisjoint(entries):
        own = ", ".join(sorted(reader.entries))
        raise Refused(
            f"access: you would lose access yourself; include one of: {own}.", param="access"
        )
    return entries


async def locked_file(
    session: AsyncSession, reader: Reader, file_id: str, *, now: float
) -> File | None:
    """Lock a file until the end of the transaction against changes, deletion and attaching.

    Returns None if the reader may not see it.
    """
    found = select(File).where(File.id == file_id, file_there(reader, now))
    file: File | None = await session.scalar(found.with_for_update(of=File))
    return file


async def remove_file(session: AsyncSession, text: TextIndex, file: File) -> None:
    """Remove a file from every store and delete it. Intents remove its bytes and vectors.

    Args:
        session: a transaction. Files are locked before stores, and stores in order of their ids,
            so that transactions that attach or delete files cannot deadlock.
        text: the full-text index.
        file: a locked row.
    """
    holders = select(StoreFile.store_id).where(StoreFile.file_id == file.id)
    for store_id in (await session.scalars(holders.order_by(StoreFile.store_id))).all():
        with suppress(NotThere):  # The store was deleted while this transaction waited for it.
            await withdraw(session, text, store_id, [file.id])
    intend_blob_removal(session, file.tenant, file.id)
    await session.execute(delete(File).where(File.id == file.id))


_ACCESS = (
    select(func.aggregate_strings(FileAccess.entry, ","))
    .where(FileAccess.file_id == File.id)
    .scalar_subquery()
)


def _access(file_id: str, entries: Iterable[str]) -> Iterable[FileAccess]:
    return (FileAccess(file_id=file_id, entry=entry) for entry in entries)


def _record(file: File, access: Iterable[str]) -> FileRecord:
    return FileRecord(
        id=file.id,
        tenant=file.tenant,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        sha256=file.sha256,
        access=sorted(access),
        privacy=file.privacy,
        media_type=file.media_type,
    )
