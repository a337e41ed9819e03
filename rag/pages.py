"""Pages of lists: what comes after or before a row that a client saw."""

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
"""What a list is in order of: when objects were made, and the ids by which clients know them."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows of a list, and whether there are more in the direction that was asked for."""

    rows: Sequence[T]
    has_more: bool

    def each(self, make: Callable[[T], U]) -> Page[U]:
        """The same page of what is made of its rows."""
        return Page([make(row) for row in self.rows], self.has_more)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page of a list: the first rows, those right after one of them, or right before it."""

    limit: int
    order: Order = "desc"
    after: str | None = None
    before: str | None = None

    @property
    def backwards(self) -> bool:
        """Whether rows are looked for from its end to its beginning."""
        return self.before is not None and self.after is None


async def page(
    session: AsyncSession,
    listed: Select[*Ts],
    query: PageQuery,
    key: Key,
    *,
    only: ColumnElement[bool] | None = None,
) -> Page[Row[*Ts]]:
    """A page of what is listed.

    Args:
        session: to ask.
        listed: all that the reader may know of, in no order.
        query: which page.
        key: the order of the list.
        only: what else must be true of a row. A cursor need not meet it: it may have met it before.

    Raises:
        Refused: a cursor is none of what is listed.
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
