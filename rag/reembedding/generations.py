"""Generations of a store's vectors in SQL: begun, swapped, gone back to, and given up.

Each function works in the caller's transaction. Which one is searched changes in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from rag.errors import NotThere, Refused
from rag.index.protocols import Collection, Generation
from rag.schema import IndexGeneration, IndexIntent, StoreFile, VectorStore

ALL = 2**62
"""`reembedded_to` of a generation that has everything."""

State = Literal["active", "building", "previous"]


@dataclass(frozen=True, slots=True)
class Generations:
    """Those of one store."""

    tenant: str
    active: IndexGeneration | None = None
    building: IndexGeneration | None = None
    previous: IndexGeneration | None = None

    @property
    def all(self) -> list[IndexGeneration]:
        """Each that there is."""
        each = (self.active, self.building, self.previous)
        return [generation for generation in each if generation is not None]

    def collection(self, generation: IndexGeneration) -> Collection:
        """Where its vectors are."""
        return Collection(self.tenant, generation.collection)

    def value(self, generation: IndexGeneration) -> Generation:
        """It, apart from its row."""
        return Generation(
            id=generation.id, store_id=generation.store_id, tenant=self.tenant,
            collection=self.collection(generation), model=generation.model,
            revision=generation.revision, dimension=generation.dimension,
            canaries=generation.canaries,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the building generation is.

    Attributes:
        done: files whose vectors are there.
        total: files that are published.
        complete: whether it may be swapped.
    """

    generation: str
    model: str
    done: int
    total: int
    complete: bool


async def generations(session: AsyncSession, store_id: str, *, lock: bool = False) -> Generations:
    """The generations of a store; with `lock`, nobody else changes them until the end.

    Raises:
        NotThere: no such store.
    """
    store = select(VectorStore.tenant).where(VectorStore.id == store_id)
    tenant = await session.scalar(store.with_for_update() if lock else store)
    if tenant is None:
        raise NotThere("No such vector store.")
    found = await session.scalars(
        select(IndexGeneration).where(IndexGeneration.store_id == store_id)
    )
    return Generations(tenant, **{generation.state: generation for generation in found})


def building(found: Generations) -> IndexGeneration:
    """The one that is being built.

    Raises:
        Refused: none is.
    """
    if found.building is None:
        raise Refused("No new vectors are being made for this vector store.")
    return found.building


def refuse_if_building(found: Generations) -> None:
    """Only one at a time.

    Raises:
        Refused: one is being built.
    """
    if found.building is not None:
        raise Refused(
            f"New vectors by {found.building.model!r} are being made for this vector store already."
        )


async def swap(session: AsyncSession, store_id: str) -> str:
    """Search the building generation from now on, and keep the one that was searched.

    Returns:
        The id of the generation that is searched now.

    Raises:
        NotThere: no such store.
        Refused: none is being built, or it is not complete.
    """
    found = await generations(session, store_id, lock=True)
    new = building(found)
    if new.reembedded_to < ALL:
        raise Refused("The new vectors are not complete yet.")
    if found.previous is not None:
        await give_up(session, found, found.previous)
    if found.active is not None:
        found.active.state = "previous"
    new.state = "active"
    return new.id


async def go_back(session: AsyncSession, store_id: str) -> str:
    """Make the previous generation the one that is built: it lacks what changed since.

    Raises:
        NotThere: no such store.
        Refused: there is no previous one, or another is being built.
    """
    found = await generations(session, store_id, lock=True)
    refuse_if_building(found)
    if found.previous is None:
        raise Refused("There are no previous vectors to go back to.")
    found.previous.state, found.previous.reembedded_to = "building", 0
    return found.previous.id


async def give_up(session: AsyncSession, found: Generations, generation: IndexGeneration) -> None:
    """Remove a generation; its collection goes by an intent."""
    session.add(
        IndexIntent(kind="drop", tenant=found.tenant, subject=generation.collection, until=0.0)
    )
    await session.execute(
        delete(IndexIntent).where(
            IndexIntent.kind.in_(("write", "erase")),
            IndexIntent.collection == generation.collection,
        )
    )
    await session.delete(generation)


async def progress(session: AsyncSession, generation: IndexGeneration) -> Progress:
    """How far a generation is."""
    published = (StoreFile.store_id == generation.store_id) & StoreFile.version.is_not(None)
    count = select(func.count()).select_from(StoreFile).where(published)
    total = await session.scalar(count) or 0
    done = await session.scalar(count.where(StoreFile.id <= generation.reembedded_to)) or 0
    complete = generation.reembedded_to >= ALL
    return Progress(generation.id, generation.model, done, total, complete)
