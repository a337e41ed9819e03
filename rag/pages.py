"""Pagination: pages of lists, before or after a row that the client already has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, TypeVarTuple

from sqlalchemy import ColumnElement, Row, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from rag.errors import Refused

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")
Order = Literal["asc", "desc"]
Key = tuple[InstrumentedAttribute[int], InstrumentedAttribute[str]]
"""The columns that order a list: creation time, then the public id."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, and whether more rows follow in the requested direction."""

    rows: Sequence[T]
    has_more: bool

    def each(self, make: Callable[[T], U]) -> Page[U]:
        """Return the same page with `make` applied to each row."""
        return Page([make(row) for row in self.rows], self.has_more)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The position of a page: at the start of the list, after a cursor, or before a cursor."""

    limit: int
    order: Order = "desc"
    after: str | None = None
    before: str | None = None

    @property
    def backwards(self) -> bool:
        """Whether the page is read from the end of the list to its beginning."""
        return self.before is not None and self.after is None


async def page(
    session: AsyncSession,
    listed: Select[*Ts],
    query: PageQuery,
    key: Key,
    *,
    only: ColumnElement[bool] | None = None,
) -> Page[Row[*Ts]]:
    """Read one page of a list.

    Args:
        session: the database session.
        listed: everything that the reader may see, unordered.
        query: the position and size of the page.
        key: the order of the list.
        only: a further condition on rows. A cursor need not meet it (any more).

    Raises:
        Refused: a cursor is not in the list.
    """
    rising = (query.order == "asc") != query.backwards
    shown = listed if only is None else listed.where(only)
    for name, cursor in (("after", query.after), ("before", query.before)):
        if cursor is not None:
            place = await _place(session, listed, key, cursor=cursor, name=name)
            later = (name == "after") == (query.order == "asc")
            shown = shown.where(tuple_(*key) > place if later else tuple_(*key) < place)
    order = [column.asc() if rising else column.desc() for column in key]
    found = (await session.execute(shown.order_by(*order).limit(query.limit + 1))).all()
    rows = found[: query.limit]
    return Page(rows[::-1] if query.backwards else rows, len(found) > query.limit)


async def _place(
    session: AsyncSession, listed: Select[*Ts], key: Key, *, cursor: str, name: str
) -> tuple[Any, ...]:
    found = await session.execute(listed.with_only_columns(*key).where(key[1] == cursor))
    if (row := found.one_or_none()) is None:
        raise Refused(f"{name}: {cursor!r} is not in this list.", param=name)
    return tuple(row)
