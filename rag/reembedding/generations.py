"""Generations of a store's vectors in SQL: begun, swapped, rolled back and removed.

Each function works in the caller's transaction, so that a swap is atomic.
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
"""Value of `reembedded_to` for a complete generation."""

State = Literal["active", "building", "previous"]


@dataclass(frozen=True, slots=True)
class Generations:
    """The generations of one store."""

    tenant: str
    active: IndexGeneration | None = None
    building: IndexGeneration | None = None
    previous: IndexGeneration | None = None

    @property
    def all(self) -> list[IndexGeneration]:
        """The generations that exist."""
        each = (self.active, self.building, self.previous)
        return [generation for generation in each if generation is not None]

    def collection(self, generation: IndexGeneration) -> Collection:
        """Return the location of a generation's vectors."""
        return Collection(self.tenant, generation.collection)

    def value(self, generation: IndexGeneration) -> Generation:
        """Convert a row to a value."""
        return Generation(
            id=generation.id, store_id=generation.store_id, tenant=self.tenant,
            collection=self.collection(generation), model=generation.model,
            revision=generation.revision, dimension=generation.dimension,
            canaries=generation.canaries,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the generation that is being built.

    Attributes:
        done: number of files that have vectors.
        total: number of published files.
        complete: whether the generation may be swapped in.
    """

    generation: str
    model: str
    done: int
    total: int
    complete: bool


async def generations(session: AsyncSession, store_id: str, *, lock: bool = False) -> Generations:
    """Return the generations of a store; `lock` locks the store against changes of them.

    Raises:
        NotThere: the store does not exist.
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
    """Return the generation that is being built.

    Raises:
        Refused: no generation is being built.
    """
    if found.building is None:
        raise Refused("No new vectors are being made for this vector store.")
    return found.building


def refuse_if_building(found: Generations) -> None:
    """Raise if a generation is being built, because a store has at most one.

    Raises:
        Refused: a generation is being built.
    """
    if found.building is not None:
        raise Refused(
            f"New vectors by {found.building.model!r} are already being made for this vector store."
        )


async def swap(session: AsyncSession, store_id: str) -> str:
    """Make the building generation the active one, and the active one the previous.

    Returns:
        The id of the generation that is active now.

    Raises:
        NotThere: the store does not exist.
        Refused: no generation is being built, or it is not complete.
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
    """Make the previous generation the building one, because it lacks later changes.

    Raises:
        NotThere: the store does not exist.
        Refused: there is no previous generation, or another one is being built.
    """
    found = await generations(session, store_id, lock=True)
    refuse_if_building(found)
    if found.previous is None:
        raise Refused("There are no previous vectors to go back to.")
    found.previous.state, found.previous.reembedded_to = "building", 0
    return found.previous.id


async def give_up(session: AsyncSession, found: Generations, generation: IndexGeneration) -> None:
    """Remove a generation; an intent drops its collection."""
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
    """Return the progress of a generation."""
    published = (StoreFile.store_id == generation.store_id) & StoreFile.version.is_not(None)
    count = select(func.count()).select_from(StoreFile).where(published)
    total = await session.scalar(count) or 0
    done = await session.scalar(count.where(StoreFile.id <= generation.reembedded_to)) or 0
    complete = generation.reembedded_to >= ALL
    return Progress(generation.id, generation.model, done, total, complete)
