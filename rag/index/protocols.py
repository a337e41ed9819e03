"""The two indexes over chunks: vectors, and full text. Values and protocols; no database here.

A vector is named `<version>:<position>:<window>`: a chunk that is longer than its embedder takes
has several windows, and is found by the best of them.
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
    """Where the vectors of one generation are: a database for each tenant, a name in it."""

    tenant: str
    name: str


@dataclass(frozen=True, slots=True)
class Generation:
    """The vectors of a store by one embedder, and what pins that; see `IndexGeneration`."""

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
    """Which files a search may find: only `files`, or all but `files` where `but`."""

    files: Sequence[str]
    but: bool = False


@dataclass(frozen=True, slots=True)
class VectorKey:
    """Which vector: of a version of a file's chunks, a chunk by its position, a window of it."""

    file_id: str
    version: str
    position: int
    window: int

    @property
    def id(self) -> str:
        """Its name in a collection."""
        return f"{self.version}:{self.position}:{self.window}"


@dataclass(frozen=True, slots=True)
class VectorHit:
    """A chunk by its key (`<version>:<position>`), and the cosine of its best window, -1 to 1."""

    key: str
    cosine: float


@dataclass(frozen=True, slots=True)
class TextHit:
    """A chunk by its id, and how well its words fit; only the order of scores means something."""

    chunk_id: int
    score: float


def chunk_key(vector: str) -> str:
    """The key of the chunk that a vector belongs to."""
    return vector.rpartition(":")[0]


class VectorIndex(Protocol):
    """Vectors by collection. Every call may raise `IndexUnavailable`, and has a deadline."""

    async def create(self, collection: Collection) -> None:
        """Make an empty collection; nothing happens to one that is there."""
        ...

    async def drop(self, collection: Collection) -> None:
        """Remove a collection; nothing happens if there is none."""
        ...

    async def write(
        self, collection: Collection, keys: Sequence[VectorKey], vectors: NDArray[np.float32]
    ) -> None:
        """Put vectors `(len(keys), dimension)` there; those of the same key are replaced."""
        ...

    async def erase(self, collection: Collection, version: str) -> None:
        """Remove all vectors of a version; nothing happens if there are none."""
        ...

    async def search(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[VectorHit]:
        """The nearest chunks, each once, best first, `limit` at most.

        Filtered before ranking: a file that is not let through takes nobody's place.
        """
        ...

    def ids(self, collection: Collection) -> AsyncIterator[list[str]]:
        """All vector ids, some at a time, in no order."""
        ...

    async def sample(self, collection: Collection, limit: int) -> NDArray[np.float32]:
        """Up to `limit` vectors `(n, dimension)` from all over the collection."""
        ...

    async def collections(self) -> list[Collection]:
        """All collections of all tenants."""
        ...

    async def forget(self, tenant: str) -> None:
        """Remove a tenant's database with all that is in it."""
        ...


class TextIndex(Protocol):
    """Full text of the chunks of a store, in the database, in the caller's transaction."""

    async def create(self, session: AsyncSession, store_number: int) -> None:
        """Make the table of a store."""
        ...

    async def drop(self, session: AsyncSession, store_number: int) -> None:
        """Remove it; nothing happens if there is none."""
        ...

    async def add(self, session: AsyncSession, store_number: int, version: str) -> None:
        """Index the chunks of a version, which are in `chunks` already."""
        ...

    async def remove(self, session: AsyncSession, store_number: int, version: str) -> None:
        """Take the chunks of a version out, before they leave `chunks`."""
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
        """Chunks with words of the query, best first. Filtered before ranking.

        Only published chunks are here: they come and go with `store_files.version`.
        """
        ...

    async def stores(self, session: AsyncSession) -> list[int]:
        """Numbers of the stores that have a table."""
        ...

    async def chunk_ids(self, session: AsyncSession, store_number: int) -> set[int]:
        """Ids of all chunks that are indexed."""
        ...
