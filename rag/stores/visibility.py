"""Visibility: SQL says what a reader may find, before the indexes rank and again for their results.

A passage is visible only if an access-list entry grants it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    false,
    func,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession

from rag.index.protocols import FileFilter
from rag.schema import ChunkRow, File, FileAccess, IndexGeneration, StoreFile, VectorStore
from rag.search.passages import Passage
from rag.stores.access_lists import Reader, file_readable, store_readable

DAY_S = 86_400
FEW = 100
"""If at most this many files are hidden, a search excludes them instead of listing the visible
ones."""
STATEMENTS = 256
"""Statements that are cached. Building one takes longer than running it."""

Filters: TypeAlias = ColumnElement[bool] | None
Statement: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Searchable:
    """A store that the reader may search: its number and a filter on files; None passes all."""

    number: int
    files: FileFilter | None


@dataclass(frozen=True, slots=True)
class Visible:
    """A published chunk that the reader may see; `attributes` is JSON text."""

    key: str
    chunk_id: int
    position: int
    page: int | None
    text: str
    store_id: str
    file_id: str
    attributes: str
    filename: str
    privacy: str

    def passage(self, *, score: float, cosine: float | None) -> Passage:
        """Convert to a passage with its scores."""
        return Passage(
            store_id=self.store_id,
            file_id=self.file_id,
            filename=self.filename,
            attributes=json.loads(self.attributes),
            privacy=self.privacy,
            page=self.page,
            position=self.position,
            chunk_id=self.chunk_id,
            text=self.text,
            score=score,
            cosine=cosine,
        )


async def searchable(
    session: AsyncSession,
    reader: Reader,
    generations: Collection[str],
    filters: Filters,
    *,
    now: float,
) -> dict[str, Searchable]:
    """Return the searchable stores by generation; stores without visible files are left out.

    If all or nearly all files are visible, only the hidden ones are read.

    Args:
        session: the database session.
        reader: the caller.
        generations: ids of generations; those that no longer exist are left out.
        filters: a condition on `store_files` rows.
        now: Unix seconds; expired stores are left out.
    """
    few, given = FEW + len(generations), {"now": now}
    hidden = _built(_hidden, reader, generations, filters).limit(few)
    rows = (await session.execute(hidden, given)).all()
    if len(rows) < few:
        return {
            generation: Searchable(number, FileFilter(files, but=True) if files else None)
            for (generation, number), (_, files) in _by_store(rows).items()
        }
    rows = (await session.execute(_built(_all, reader, generations, filters), given)).all()
    return {
        generation: Searchable(number, _shorter(shown, files))
        for (generation, number), (shown, files) in _by_store(rows).items()
        if shown
    }


async def visible(
    session: AsyncSession,
    reader: Reader,
    stores: Collection[str],
    filters: Filters,
    *,
    keys: Collection[str],
    chunk_ids: Collection[int],
    now: float,
) -> list[Visible]:
    """Return the published, unexpired, readable chunks that match the filters, unordered."""
    asked = _built(_confirming, reader, stores, filters)
    asked = asked.where(ChunkRow.id.in_(_ASKED[session.get_bind().dialect.name]))
    given = {
        "keys": json.dumps(list(keys)), "chunk_ids": json.dumps(list(chunk_ids)), "now": now,
    }  # fmt: skip
    return [Visible(*row) for ok, *row in (await session.execute(asked, given)).all() if ok]


def _built(
    build: Callable[[Reader, tuple[str, ...], Filters], Statement],
    reader: Reader,
    ids: Collection[str],
    filters: Filters,
) -> Statement:
    """Return a statement about stores or generations for a reader; `now` is its parameter."""
    if filters is None:
        return _kept(build, reader, tuple(ids))
    return build(reader, tuple(ids), filters)


@lru_cache(maxsize=STATEMENTS)
def _kept(
    build: Callable[[Reader, tuple[str, ...], Filters], Statement],
    reader: Reader,
    ids: tuple[str, ...],
) -> Statement:
    return build(reader, ids, None)


_NOW = bindparam("now", type_=Float())


def _confirming(reader: Reader, stores: tuple[str, ...], filters: Filters) -> Statement:
    """Select whether a chunk may be seen, and the columns of a `Visible`."""
    columns = (
        *(ChunkRow.key, ChunkRow.id, ChunkRow.position, ChunkRow.page, ChunkRow.text),
        # Few of these rows are shown, so the JSON is parsed later.
        *(StoreFile.store_id, StoreFile.file_id, cast(StoreFile.attributes, Text())),
        *(File.filename, File.privacy),
    )
    checks = and_(
        ChunkRow.version == StoreFile.version,
        StoreFile.status == "completed",
        StoreFile.store_id.in_(stores),
        or_(File.expires_at.is_(None), File.expires_at > _NOW),
        file_readable(reader),
        store_readable(reader),
        unexpired(_NOW),
        true() if filters is None else filters,
    )
    # A column, because SQLite would turn a condition into a scan of all files of the store.
    return (
        select(func.coalesce(checks, false()), *columns)
        .join(StoreFile, StoreFile.id == ChunkRow.store_file_id)
        .join(File, File.id == StoreFile.file_id)
        .join(VectorStore, VectorStore.id == StoreFile.store_id)
    )


_ASKED = {
    "sqlite": text(
        "SELECT id FROM chunks WHERE key IN (SELECT value FROM json_each(:keys))"
        " UNION ALL SELECT value FROM json_each(:chunk_ids)"
    ),
    "postgresql": text(
        "SELECT id FROM chunks WHERE key IN (SELECT json_array_elements_text(CAST(:keys AS json)))"
        " UNION ALL SELECT CAST(json_array_elements_text(CAST(:chunk_ids AS json)) AS bigint)"
    ),
}
"""SQL that maps keys and ids of chunks to ids, by dialect. Two JSON parameters carry any number of
values; one parameter per value would cost more than the search itself."""


def unexpired(now: float | ColumnElement[float]) -> ColumnElement[bool]:
    """Whether the current `vector_stores` row has not expired."""
    days = VectorStore.expires_after_days
    return or_(days.is_(None), VectorStore.last_active_at + days * DAY_S > now)


def _allowed(reader: Reader, filters: Filters) -> ColumnElement[bool]:
    """Whether the current `store_files` row may be found; never null.

    One EXISTS per entry, most likely first, is twice as fast in SQLite as one for all entries.
    """
    entries = sorted(reader.entries, key=lambda entry: (entry != "tenant", entry))
    listed = or_(
        false(),
        *(
            exists().where(FileAccess.file_id == StoreFile.file_id, FileAccess.entry == entry)
            for entry in entries
        ),
    )
    return listed if filters is None else listed & func.coalesce(filters, false())


def _hidden(reader: Reader, generations: tuple[str, ...], filters: Filters) -> Statement:
    """Select like `_stores`, with the hidden files only."""
    allowed = _allowed(reader, filters)
    return _stores(reader, generations, allowed, only=~allowed)


def _all(reader: Reader, generations: tuple[str, ...], filters: Filters) -> Statement:
    """Select like `_stores`, with all files."""
    return _stores(reader, generations, _allowed(reader, filters))


def _stores(
    reader: Reader,
    generations: tuple[str, ...],
    allowed: ColumnElement[bool],
    *,
    only: ColumnElement[bool] | None = None,
) -> Statement:
    """Select generation, store number, file, and whether it may be found, for every store."""
    files = StoreFile.store_id == VectorStore.id
    return (
        select(IndexGeneration.id, VectorStore.number, StoreFile.file_id, allowed.label("allowed"))
        .join(VectorStore, VectorStore.id == IndexGeneration.store_id)
        .outerjoin(StoreFile, files if only is None else files & only)
        .where(IndexGeneration.id.in_(generations), store_readable(reader), unexpired(_NOW))
    )


def _by_store(
    rows: Collection[Any],
) -> dict[tuple[str, int], tuple[list[str], list[str]]]:
    """Group files by generation and store number into visible and hidden ones."""
    found: dict[tuple[str, int], tuple[list[str], list[str]]] = {}
    for generation, number, file_id, allowed in rows:
        shown, hidden = found.setdefault((generation, number), ([], []))
        if file_id is not None:
            (shown if allowed else hidden).append(file_id)
    return found


def _shorter(shown: list[str], hidden: list[str]) -> FileFilter | None:
    if not hidden:
        return None
    if len(hidden) < len(shown):
        return FileFilter(hidden, but=True)
    return FileFilter(shown)
