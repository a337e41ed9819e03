"""A process that crashes at a given step of its work, without a chance to clean up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from serving.storage.database import Database
from tests.rag.store_with_vectors import WordEmbedder
from tests.rag.workshop import Workshop


class Died(BaseException):
    """The process crashes here; nothing catches this."""


class Life:
    """Counts steps: before and after each commit and each call of the vectors or an embedder."""

    def __init__(self) -> None:
        self.taken = 0
        self.last = 0

    def __call__(self) -> None:
        self.taken += 1
        if self.last and self.taken >= self.last:
            raise Died


class MortalDatabase(Database):
    """The database of a crashing process: what it has not committed is rolled back."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.step = Life()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession]:
        async with super().transaction() as session:
            yield session
            self.step()
        self.step()


def mortal(database: MortalDatabase, first: Workshop) -> tuple[Workshop, Life]:
    """Another process on the same stores that can be made to crash."""
    shop = Workshop(database, first)
    database.step = life = Life()
    shop.vectors.before = life
    for one in shop.embedders.values():
        assert isinstance(one.embedder, WordEmbedder)
        one.embedder.before = life
    return shop, life
