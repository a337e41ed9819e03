"""Expiry: removes expired files, and the contents of vector stores that were not used for long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import not_, select, update

from rag.database import SqlDatabase
from rag.files.files import remove_file
from rag.index.protocols import TextIndex
from rag.schema import File, IndexGeneration, VectorStore
from rag.stores.vector_stores import empty_store
from rag.stores.visibility import unexpired

USED_S = 60
"""Seconds for which a recorded use of a store is not recorded again."""


class Expiry:
    """Records the use of stores, and removes what has expired.

    The row of an expired store stays, so that lists show it as expired.

    Args:
        clock: returns Unix seconds.
    """

    def __init__(
        self, database: SqlDatabase, text: TextIndex, *, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._text = text
        self._clock = clock
        self._used: dict[
            str, int
        ] = {}  # Unix seconds of the last recorded use, for recently used stores.

    async def expire(self) -> bool:
        """Remove one expired file, or empty one expired store. Returns whether there was one."""
        return await self._expire_file() or await self._empty_store()

    async def used(self, store_ids: Sequence[str]) -> None:
        """Record that stores are used now. Skips stores that another transaction has locked."""
        now = int(self._clock())
        lately = now - USED_S
        if all(self._used.get(one, 0) >= lately for one in store_ids):
            return
        there = select(VectorStore.id, VectorStore.last_active_at).where(
            VectorStore.id.in_(store_ids), unexpired(now)
        )
        async with (
            self._database.session() as session
        ):  # Checked first: a search should take the write lock only if it must.
            used = dict((await session.execute(there)).all())
        if idle := [store_id for store_id, at in used.items() if at < lately]:
            used |= dict.fromkeys(await self._note(idle, now), now)
        kept = {one: at for one, at in self._used.items() if at >= lately}
        self._used = kept | used

    async def _note(self, store_ids: Sequence[str], now: int) -> Sequence[str]:
        """Record the use of stores; locked stores are skipped."""
        held = (
            select(VectorStore.id)
            .where(VectorStore.id.in_(store_ids), unexpired(now))
            .order_by(VectorStore.id)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as session:
            found = (await session.scalars(held)).all()
            await session.execute(
                update(VectorStore).where(VectorStore.id.in_(found)).values(last_active_at=now)
            )
        return found

    async def _expire_file(self) -> bool:
        """Remove one expired file.

        One file per transaction: each locks the stores that hold it, in an order of its own.
        """
        due = select(File).where(File.expires_at <= self._clock()).order_by(File.id).limit(1)
        async with (
            self._database.session() as session
        ):  # Checked first: the write lock is taken only if a file has expired.
            if await session.scalar(due) is None:
                return False
        async with self._database.transaction() as session:
            file = await session.scalar(due.with_for_update(of=File))
            if file is not None:
                await remove_file(session, self._text, file)
        return True

    async def _empty_store(self) -> bool:
        """Empty one expired store. A store that still has a generation is not empty."""
        full = select(IndexGeneration.id).where(IndexGeneration.store_id == VectorStore.id)
        due = (
            select(VectorStore)
            .where(not_(unexpired(self._clock())), full.exists())
            .order_by(VectorStore.id)
            .limit(1)
        )
        async with self._database.session() as session:
            if await session.scalar(due) is None:
                return False
        async with self._database.transaction() as session:
            store = await session.scalar(due.with_for_update(of=VectorStore))
            if store is not None:
                await empty_store(session, self._text, store)
        return True
