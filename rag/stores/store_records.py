"""Vector store records: counts and sizes include only what the reader may see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.files.files import attached_file_there
from rag.schema import StoreFile, VectorStore, VectorStoreAccess
from rag.stores.access_lists import Reader, store_readable
from rag.stores.attaching import expired
from rag.stores.visibility import DAY_S

_ACCESS = (
    select(func.aggregate_strings(VectorStoreAccess.entry, ","))
    .where(VectorStoreAccess.store_id == VectorStore.id)
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Number of files of a store or a batch, by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int

    @classmethod
    def of(cls, counted: Mapping[str, int]) -> FileCounts:
        """Build the counts from a mapping; missing statuses count as 0."""
        return cls(
            in_progress=counted.get("in_progress", 0),
            completed=counted.get("completed", 0),
            failed=counted.get("failed", 0),
            cancelled=counted.get("cancelled", 0),
            total=sum(counted.values()),
        )


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A vector store. Times are Unix seconds; counts and bytes cover the reader's files."""

    id: str
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    counts: FileCounts
    status: Literal["completed", "in_progress", "expired"]
    expires_after_days: int | None
    expires_at: int | None
    last_active_at: int
    metadata: Mapping[str, str]
    access: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Content:
    """The files of a store that a reader may see."""

    counts: FileCounts
    usage_bytes: int


def listed_stores(reader: Reader) -> Select[VectorStore, str]:
    """Select the stores of a reader with their access lists, as `store_records` takes them."""
    return select(VectorStore, _ACCESS).where(store_readable(reader))


async def store_records(
    session: AsyncSession, reader: Reader, rows: Sequence[Row[VectorStore, str]], *, now: float
) -> list[StoreRecord]:
    """Build the records of stores, in their order.

    Args:
        session: the session to query their files with.
        reader: the caller.
        rows: rows of `listed_stores`, at most a page.
        now: Unix seconds.
    """
    contents = await _contents(session, reader, [store.id for store, _ in rows], now)
    return [_record(store, access, contents[store.id], now) for store, access in rows]


async def _contents(
    session: AsyncSession, reader: Reader, store_ids: Sequence[str], now: float
) -> Mapping[str, _Content]:
    found = await session.execute(
        select(
            StoreFile.store_id, StoreFile.status, func.count(), func.sum(StoreFile.usage_bytes)
        )
        .where(StoreFile.store_id.in_(store_ids), attached_file_there(reader, now))
        .group_by(StoreFile.store_id, StoreFile.status)
    )  # fmt: skip
    counted: dict[str, dict[str, int]] = defaultdict(dict)
    used: dict[str, int] = defaultdict(int)
    for store_id, status, count, size in found:
        counted[store_id][status] = count
        used[store_id] += int(size)
    return {one: _Content(FileCounts.of(counted[one]), used[one]) for one in store_ids}


def _record(store: VectorStore, access: str, content: _Content, now: float) -> StoreRecord:
    days = store.expires_after_days
    status: Literal["completed", "in_progress", "expired"] = "completed"
    if expired(store, now):
        status = "expired"
    elif content.counts.in_progress:
        status = "in_progress"
    return StoreRecord(
        id=store.id,
        created_at=store.created_at,
        name=store.name,
        description=store.description,
        usage_bytes=content.usage_bytes,
        counts=content.counts,
        status=status,
        expires_after_days=days,
        expires_at=None if days is None else store.last_active_at + days * DAY_S,
        last_active_at=store.last_active_at,
        metadata=store.details,
        access=sorted(access.split(",")),
    )
