"""Files in SQL: made, listed, changed and deleted by those who may read them.

Knows no bytes: they are in the blob store, and go by an intent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import Database
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
    """The files of all tenants.

    Args:
        database: where they are.
        text: the full-text index, which deleted files leave.
        clock: Unix seconds.
    """

    def __init__(
        self, database: Database, text: TextIndex, *, clock: Callable[[], float] = time.time
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
        """Add a file whose bytes are in the blob store already.

        Args:
            reader: who uploaded it.
            file_id: of the blob.
            filename: as it was uploaded.
            purpose: one of the API's.
            media_type: by content.
            size: in bytes.
            sha256: of the bytes, in hexadecimal.
            privacy: the loosest class that a request with a passage of it may have.
            access: who may read it; None: the narrowest list that the reader is on.
            expires_after_s: None: never.

        Raises:
            Refused: the access list cannot be used.
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
        """A file.

        Raises:
            NotThere: no such file, it expired, or it is not for this reader.
        """
        async with self._database.session() as session:
            return await self._record(session, reader, file_id)

    async def list(
        self, reader: Reader, query: PageQuery, *, purpose: str | None = None
    ) -> Page[FileRecord]:
        """A page of the files, by when they were made.

        Raises:
            Refused: no such cursor.
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
        """Change who may read a file, and how far it may go; None leaves it as it is.

        Raises:
            NotThere: as of `get`.
            Refused: the access list cannot be used.
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
        """Delete a file, out of every vector store too. Its bytes and vectors go by intents.

        Raises:
            NotThere: as of `get`.
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
    """Whether the `files` row at hand is there for a reader: readable, and not expired."""
    return file_readable(reader) & or_(File.expires_at.is_(None), File.expires_at > now)


def attached_file_there(reader: Reader, now: float) -> ColumnElement[bool]:
    """The same of the file of the `store_files` row at hand.

    Joined, SQLite would begin with all files of the tenant.
    """
    return exists().where(File.id == StoreFile.file_id, file_there(reader, now))


def access_list(reader: Reader, asked: Sequence[str] | None) -> Sequence[str]:
    """The access list that a reader gives to something; None: the narrowest it is on itself.

    Raises:
        Refused: too long, malformed, or a list that the reader would not be on.
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
            f"access: you could not read it yourself any more; list one of: {own}.", param="access"
        )
    return entries


async def locked_file(
    session: AsyncSession, reader: Reader, file_id: str, *, now: float
) -> File | None:
    """A file that nobody else changes, deletes or attaches until the transaction ends.

    Returns None if it is not there for this reader.
    """
    found = select(File).where(File.id == file_id, file_there(reader, now))
    file: File | None = await session.scalar(found.with_for_update(of=File))
    return file


async def remove_file(session: AsyncSession, text: TextIndex, file: File) -> None:
    """Take a file out of every store and delete it; its bytes and vectors go by intents.

    Args:
        session: a transaction. Files are locked before stores, and stores by id: so nobody who
            attaches files or deletes others waits for this one in a ring.
        text: the full-text index.
        file: locked.
    """
    holders = select(StoreFile.store_id).where(StoreFile.file_id == file.id)
    for store_id in (await session.scalars(holders.order_by(StoreFile.store_id))).all():
        with suppress(NotThere):  # The store was deleted while we waited for it.
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
