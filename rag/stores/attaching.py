"""Attaching many files to a vector store: permissions, locks, and what repeated attaching does.

Indexing is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.errors import NotThere, Refused, TooMany
from rag.files.files import NO_FILE, file_there
from rag.schema import File, StoreFile, VectorStore
from rag.stores.access_lists import Reader, store_readable
from rag.stores.visibility import DAY_S

AUTO_TOKENS = (800, 400)
"""Default size of a chunk and of its overlap with the one before, in tokens."""

PARAMETERS = 500
"""Maximum ids in one statement."""

Attachment = tuple[str, Mapping[str, Any], tuple[int, int] | None]
"""A file id, its attributes, and tokens of a chunk and of its overlap; None means `AUTO_TOKENS`."""

_WAITING: Mapping[str, Any] = {
    "status": "in_progress",
    "error_code": None,
    "error_message": None,
    "tries": 0,
    "lease_owner": None,
    "lease_until": 0.0,
}
"""Column values of a file that waits to be indexed."""


async def attach_all(
    session: AsyncSession,
    reader: Reader,
    store_id: str,
    files: Sequence[Attachment],
    *,
    now: float,
    max_files: int,
    param: str,
) -> list[int]:
    """Attach files in the caller's transaction, all or none; returns their `store_files.id`.

    A file that is already attached gets the new attributes. It is indexed again if its chunk sizes
    change, or if indexing failed or was cancelled.

    Args:
        session: a transaction that has not locked a store yet: files are locked first, see
            `rag.files.files.remove_file`.
        reader: the caller.
        store_id: the store.
        files: the last entry counts if one file is named twice.
        now: Unix seconds.
        max_files: maximum files of the store.
        param: name of the request field that an error refers to.

    Raises:
        NotThere: the reader may not see the store or a file.
        Refused: the store has expired, or a file has the purpose `batch`.
        TooMany: the store is full.
    """
    wanted = {file[0]: file for file in files}
    await readable_store(session, reader, store_id)
    await check_usable(session, reader, list(wanted), now=now, param=param, lock=True)
    store = await readable_store(session, reader, store_id, lock=True)
    if expired(store, now):
        raise Refused("The vector store has expired; files can no longer be added.")
    store.last_active_at = int(now)
    there = await _attached(session, store_id, list(wanted))
    for row in there:
        _attach_again(row, wanted.pop(row.file_id))
    await _check_room(session, store_id, len(wanted), max_files)
    new = [_row(store_id, file, now) for file in wanted.values()]
    made = await session.scalars(insert(StoreFile).returning(StoreFile.id), new) if new else ()
    return [*(row.id for row in there), *made]


async def readable_store(
    session: AsyncSession, reader: Reader, store_id: str, *, lock: bool = False
) -> VectorStore:
    """Return a store that the reader may see; `lock` locks it and reads its current row.

    Raises:
        NotThere: the reader may not see the store.
    """
    found = select(VectorStore).where(VectorStore.id == store_id, store_readable(reader))
    if lock:
        found = found.with_for_update(of=VectorStore).execution_options(populate_existing=True)
    if (store := await session.scalar(found)) is None:
        raise NotThere("No such vector store.")
    return store


def expired(store: VectorStore, now: float) -> bool:
    """Whether a store has been unused for longer than it may be."""
    days = store.expires_after_days
    return days is not None and store.last_active_at + days * DAY_S <= now


async def check_usable(
    session: AsyncSession,
    reader: Reader,
    file_ids: Sequence[str],
    *,
    now: float,
    param: str,
    lock: bool = False,
) -> None:
    """Check that files can be attached; `lock` protects them from deletion.

    Files are locked before stores; see `rag.files.files.remove_file`.

    Raises:
        NotThere: the reader may not see one of the files. The message does not say which.
        Refused: a file has the purpose `batch`.
    """
    found: dict[str, str] = {}
    for ids in parts(sorted(file_ids)):
        usable = select(File.id, File.purpose).where(File.id.in_(ids), file_there(reader, now))
        if lock:
            usable = usable.with_for_update(read=True, key_share=True, of=File)
        rows = await session.execute(usable.order_by(File.id))
        found.update((file_id, purpose) for file_id, purpose in rows)
    if len(found) < len(set(file_ids)):
        raise NotThere(NO_FILE, param=param)
    if "batch" in found.values():
        raise Refused(f"{param}: files of purpose batch cannot be attached.", param=param)


def parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into parts that fit one statement."""
    for begin in range(0, len(ids), PARAMETERS):
        yield ids[begin : begin + PARAMETERS]


async def _attached(
    session: AsyncSession, store_id: str, file_ids: Sequence[str]
) -> list[StoreFile]:
    """Return the rows of the files that are already in the store."""
    rows: list[StoreFile] = []
    for ids in parts(file_ids):
        found = select(StoreFile).where(StoreFile.store_id == store_id, StoreFile.file_id.in_(ids))
        rows += await session.scalars(found)
    return rows


async def _check_room(session: AsyncSession, store_id: str, new: int, max_files: int) -> None:
    count = select(func.count()).select_from(StoreFile).where(StoreFile.store_id == store_id)
    if new and (await session.scalar(count) or 0) + new > max_files:
        raise TooMany(f"A vector store holds at most {max_files} files.")


def _attach_again(row: StoreFile, file: Attachment) -> None:
    """Update a file's attributes and chunking, and queue it for indexing if necessary."""
    _, attributes, chunking = file
    wanted = chunking or AUTO_TOKENS
    row.attributes = dict(attributes)
    row.strategy = "auto" if chunking is None else "static"
    same = (row.chunk_tokens, row.overlap_tokens) == wanted
    if same and row.status in ("in_progress", "completed"):
        return
    row.chunk_tokens, row.overlap_tokens = wanted
    for name, value in _WAITING.items():
        setattr(row, name, value)


def _row(store_id: str, file: Attachment, now: float) -> dict[str, Any]:
    file_id, attributes, chunking = file
    chunk_tokens, overlap_tokens = chunking or AUTO_TOKENS
    return {
        **_WAITING,
        "store_id": store_id,
        "file_id": file_id,
        "created_at": int(now),
        "attributes": dict(attributes),
        "strategy": "auto" if chunking is None else "static",
        "chunk_tokens": chunk_tokens,
        "overlap_tokens": overlap_tokens,
        "version": None,
        "usage_bytes": 0,
    }
