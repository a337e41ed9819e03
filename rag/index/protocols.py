"""Protocols and values of the vector index and the full-text index. Contains no database code.

A vector's id is `<version>:<position>:<window>`. A chunk that is too long for the embedder has
several windows, and the best of them counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class Collection:
    """Location of a generation's vectors: the tenant's database, and the name in it."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Generation:
    """The vectors that one embedder made for a store; the value of an `IndexGeneration` row."""

    id: str
    store_id: str
    tenant: str
    collection: Collection
    model: str
    revision: str
    dimension: int
    canaries: bytes


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files a search may return: only `files`, or all except `files` if `but` is set."""

    files: Sequence[str]
    but: bool = False


@dataclass(frozen=True, slots=True)
class VectorKey:
    """Identifies a vector by file, version of the chunks, position of the chunk, and window."""

    file_id: str
    version: str
    position: int
    window: int

    @property
    def id(self) -> str:
        """The vector's id in its collection."""
        return f"{self.version}:{self.position}:{self.window}"


@dataclass(frozen=True, slots=True)
class VectorHit:
    """A chunk's key (`<version>:<position>`), and the cosine of its best window, from -1 to 1."""

    key: str
    cosine: float


@dataclass(frozen=True, slots=True)
class TextHit:
    """A chunk's id and its score. Only the order of scores is meaningful."""

    chunk_id: int
    score: float


def chunk_key(vector: str) -> str:
    """Return the key of the chunk that a vector belongs to."""
    return vector.rpartition(":")[0]


class VectorIndex(Protocol):
    """Stores vectors by collection. Every call has a deadline and may raise `IndexUnavailable`."""

    async def create(self, collection: Collection) -> None:
        """Create an empty collection, unless it exists."""
        ...

    async def drop(self, collection: Collection) -> None:
        """Remove a collection, if it exists."""
        ...

    async def write(
        self, collection: Collection, keys: Sequence[VectorKey], vectors: NDArray[np.float32]
    ) -> None:
        """Write vectors `(len(keys), dimension)`, replacing those with the same key."""
        ...

    async def erase(self, collection: Collection, version: str) -> None:
        """Remove all vectors of a version, if there are any."""
        ...

    async def search(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[VectorHit]:
        """Return the nearest chunks, each once, best first, at most `limit`.

        Filtering comes before ranking, so excluded files do not use up the limit.
        """
        ...

    def ids(self, collection: Collection) -> AsyncIterator[list[str]]:
        """Yield all vector ids in batches, unordered."""
        ...

    async def sample(self, collection: Collection, limit: int) -> NDArray[np.float32]:
        """Return up to `limit` vectors `(n, dimension)`, spread over the collection."""
        ...

    async def collections(self) -> list[Collection]:
        """Return all collections of all tenants."""
        ...

    async def forget(self, tenant: str) -> None:
        """Remove a tenant's database with everything in it."""
        ...


class TextIndex(Protocol):
    """Full text of the chunks of stores, updated in the caller's transaction."""

    async def create(self, session: AsyncSession, store_number: int) -> None:
        """Create the table of a store."""
        ...

    async def drop(self, session: AsyncSession, store_number: int) -> None:
        """Remove the table of a store, if it exists."""
        ...

    async def add(self, session: AsyncSession, store_number: int, version: str) -> None:
        """Index the chunks of a version, which must be in `chunks` already."""
        ...

    async def remove(self, session: AsyncSession, store_number: int, version: str) -> None:
        """Remove the chunks of a version, before they are deleted from `chunks`."""
        ...

    async def search(
        self,
        session: AsyncSession,
        store_number: int,
        query: str,
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[TextHit]:
        """Return chunks with words of the query, best first. Filtering comes before ranking.

        The index has published chunks only; it changes together with `store_files.version`.
        """
        ...

    async def stores(self, session: AsyncSession) -> list[int]:
        """Return the numbers of the stores that have a table."""
        ...

    async def chunk_ids(self, session: AsyncSession, store_number: int) -> set[int]:
        """Return the ids of all indexed chunks."""
        ...
