"""Vector stores by name, for callers that want exactly one store of a name.

Names are not unique, as in OpenAI's API. Callers that create a store by name take turns instead.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from rag.errors import Ambiguous
from rag.schema import VectorStore
from rag.stores.access_lists import Reader, store_readable
from rag.stores.visibility import unexpired

MAX_SHOWN = 10
"""Maximum ids in an error message."""

_TAKE_TURNS = text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))")


async def take_turns(
    session: AsyncSession,
    dialect: Literal["sqlite", "postgresql"],
    tenant: str,
    name: str,
) -> None:
    """Wait until no other transaction creates a store of this name.

    SQLite needs no lock here: it has one writer at a time.
    """
    if dialect == "postgresql":
        subject = f"vector store:{len(tenant)}:{tenant}:{name}"
        await session.execute(_TAKE_TURNS, {"subject": subject})


async def store_named(
    session: AsyncSession, reader: Reader, name: str, *, now: float
) -> str | None:
    """Return the id of the store with this name that the reader may see and that has not expired.

    Returns None if there is none.

    Raises:
        Ambiguous: several stores have the name.
    """
    named = select(VectorStore.id).where(
        VectorStore.name == name, store_readable(reader), unexpired(now)
    )
    ids = (await session.scalars(named.order_by(VectorStore.number))).all()
    if len(ids) > 1:
        shown = ", ".join(ids[:MAX_SHOWN]) + (", ..." if len(ids) > MAX_SHOWN else "")
        raise Ambiguous(
            f"{len(ids)} vector stores are named {name!r}: {shown}. Use an id.", param="name"
        )
    return ids[0] if ids else None
