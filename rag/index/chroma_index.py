"""Vectors in Chroma, embedded in this process or on a server. Only this module imports `chromadb`.

Each tenant has a database, and each generation of a store's vectors has a collection. Chroma gets
no texts and never embeds anything. Embedded Chroma has no asynchronous interface, so its calls run
in a small pool of threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
from chromadb.api import ServerAPI
from chromadb.api.models.Collection import Collection as ChromaCollection
from chromadb.config import Settings, System
from chromadb.errors import ChromaError, NotFoundError
from numpy.typing import NDArray
from pydantic import SecretStr

from rag.errors import IndexUnavailable
from rag.index.protocols import Collection, FileFilter, VectorHit, VectorKey, chunk_key

T = TypeVar("T")

TIMEOUT_S = 30.0
"""Deadline of one call in seconds, including the wait for a thread."""

THREADS = 4
BATCH = 1000
"""Vectors that one call writes or lists."""

EF_SEARCH = 400
"""Candidates that a search keeps. With 400, HNSW finds 0.998 of the nearest 10 of 20,000 vectors
and 0.925 of the nearest 100; with Chroma's 100, it finds 0.979 and 0.888, 0.5 to 0.8 ms faster."""

WINDOWS = 3
"""Vectors requested per wanted chunk. A long chunk has several vectors."""

MOST = 4096
"""Maximum vectors requested by one search."""

APART = 1e-3
"""Length of the noise added to each vector. Many equal vectors, as those of repeated pages, keep
HNSW from reaching others; noise avoids that. Cosines of 384 dimensions change by 0.00005."""

_DATABASE = "tenant-"
_NOISE = np.random.default_rng()


class ChromaIndex:
    """A `VectorIndex` on Chroma.

    Args:
        settings: settings of Chroma's client.
        timeout_s: deadline of one call in seconds.
    """

    def __init__(self, settings: Settings, *, timeout_s: float = TIMEOUT_S) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, "chroma")
        self._opening = threading.Lock()
        self._opened: tuple[System, ServerAPI] | None = None
        self._known: dict[Collection, Any] = {}

    @classmethod
    def embedded(cls, directory: Path, *, timeout_s: float = TIMEOUT_S) -> Self:
        """Open Chroma in this process, which must be the only one that uses the directory."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = Settings(
            is_persistent=True, persist_directory=str(directory), anonymized_telemetry=False
        )
        return cls(settings, timeout_s=timeout_s)

    @classmethod
    def server(
        cls, url: str, *, token: SecretStr | None = None, timeout_s: float = TIMEOUT_S
    ) -> Self:
        """Connect to `chroma run` at an http(s) URL; `token` is for a proxy in front of it."""
        parts = urlsplit(url)
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        settings = Settings(
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=parts.hostname or "",
            chroma_server_http_port=parts.port or (443 if parts.scheme == "https" else 80),
            chroma_server_ssl_enabled=parts.scheme == "https",
            chroma_server_headers=headers,
            anonymized_telemetry=False,
        )
        return cls(settings, timeout_s=timeout_s)

    def close(self) -> None:
        """Refuse further calls, and wait for the running ones."""
        self._threads.shutdown(cancel_futures=True)
        if self._opened is not None:
            system, opened = self._opened
            system.stop()
            if (session := _session(opened)) is not None:
                session.close()

    async def create(self, collection: Collection) -> None:
        """See `VectorIndex.create`."""
        await self._run(self._create, collection)

    async def drop(self, collection: Collection) -> None:
        """See `VectorIndex.drop`."""
        await self._run(self._drop, collection)

    async def write(
        self, collection: Collection, keys: Sequence[VectorKey], vectors: NDArray[np.float32]
    ) -> None:
        """See `VectorIndex.write`."""
        for begin in range(0, len(keys), BATCH):
            part = slice(begin, begin + BATCH)
            await self._run(self._write, collection, keys[part], vectors[part])

    async def erase(self, collection: Collection, version: str) -> None:
        """See `VectorIndex.erase`."""
        await self._run(self._erase, collection, version)

    async def search(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[VectorHit]:
        """See `VectorIndex.search`. Neighbours are approximate, as HNSW finds them."""
        asked = WINDOWS * limit
        while True:
            found = await self._run(self._nearest, collection, vector, asked, files)
            hits = _best_windows(found)
            if len(hits) >= limit or len(found) < asked or asked >= MOST:
                return hits[:limit]
            asked = min(asked * 4, MOST)

    async def ids(self, collection: Collection) -> AsyncIterator[list[str]]:
        """See `VectorIndex.ids`."""
        offset = 0
        while page := await self._run(self._page, collection, offset):
            yield page
            offset += len(page)

    async def sample(self, collection: Collection, limit: int) -> NDArray[np.float32]:
        """See `VectorIndex.sample`. The sample is stable while nothing is written."""
        return await self._run(self._sample, collection, limit)

    async def collections(self) -> list[Collection]:
        """See `VectorIndex.collections`."""
        return await self._run(self._collections)

    async def forget(self, tenant: str) -> None:
        """See `VectorIndex.forget`."""
        await self._run(self._forget, tenant)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, function, *arguments)
        except (ChromaError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
            # The error's text may contain the query. Chroma raises `ValueError` without a server.
            reason = type(error).__name__
            raise IndexUnavailable(f"The vector index does not answer ({reason}).") from None

    @property
    def _chroma(self) -> ServerAPI:
        """The Chroma client, opened by the first call."""
        with self._opening:
            if self._opened is None:
                system = System(self._settings)
                opened = system.instance(ServerAPI)  # type: ignore[type-abstract]
                system.start()
                if (session := _session(opened)) is not None:
                    session.timeout = (
                        self._timeout_s
                    )  # httpx has no default time-out here, and a thread would be lost.
                self._opened = system, opened
            return self._opened[1]

    def _collection(self, collection: Collection) -> Any:
        """Return Chroma's collection object. Raises Chroma's `NotFoundError`."""
        known = self._known.get(collection)
        if known is None:
            model = self._chroma.get_collection(
                collection.name, database=_database(collection.tenant)
            )
            known = ChromaCollection(self._chroma, model, embedding_function=None)
            self._known[collection] = known
        return known

    def _create(self, collection: Collection) -> None:
        database = _database(collection.tenant)
        with suppress(ChromaError):  # It may exist; if creating it failed, the next call fails.
            self._chroma.create_database(database)
        self._chroma.get_or_create_collection(
            collection.name,
            configuration={"hnsw": {"space": "cosine", "ef_search": EF_SEARCH}},
            database=database,
        )

    def _drop(self, collection: Collection) -> None:
        self._known.pop(collection, None)
        with suppress(NotFoundError):
            self._chroma.delete_collection(collection.name, database=_database(collection.tenant))

    def _write(
        self, collection: Collection, keys: Sequence[VectorKey], vectors: NDArray[np.float32]
    ) -> None:
        self._collection(collection).upsert(
            ids=[key.id for key in keys],
            embeddings=_apart(vectors),
            metadatas=[{"file": key.file_id, "version": key.version} for key in keys],
        )

    def _erase(self, collection: Collection, version: str) -> None:
        with suppress(NotFoundError):
            self._collection(collection).delete(where={"version": version})

    def _nearest(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        limit: int,
        files: FileFilter | None,
    ) -> list[tuple[str, float]]:
        """Return ids and cosines of the nearest vectors, best first."""
        if files is not None and not files.files:
            if not files.but:
                return []
            files = None
        found = self._collection(collection).query(
            query_embeddings=[vector],
            n_results=limit,
            where=None if files is None else _where(files),
            include=["distances"],
        )
        return [
            (vector_id, 1.0 - distance)
            for vector_id, distance in zip(found["ids"][0], found["distances"][0], strict=True)
        ]

    def _page(self, collection: Collection, offset: int) -> list[str]:
        found = self._collection(collection).get(limit=BATCH, offset=offset, include=[])
        ids: list[str] = found["ids"]
        return ids

    def _sample(self, collection: Collection, limit: int) -> NDArray[np.float32]:
        chroma = self._collection(collection)
        count: int = chroma.count()
        chosen = np.unique(np.linspace(0, max(count - 1, 0), min(limit, count)).astype(int))
        ids: list[str] = chroma.get(include=[])["ids"]
        if not len(chosen):
            return np.empty((0, 0), dtype=np.float32)
        found = chroma.get(ids=[ids[at] for at in chosen], include=["embeddings"])
        return np.asarray(found["embeddings"], dtype=np.float32)

    def _collections(self) -> list[Collection]:
        databases = [one["name"] for one in self._chroma.list_databases()]
        return [
            Collection(database.removeprefix(_DATABASE), one.name)
            for database in databases
            if database.startswith(_DATABASE)
            for one in self._chroma.list_collections(database=database)
        ]

    def _forget(self, tenant: str) -> None:
        self._known = {key: one for key, one in self._known.items() if key.tenant != tenant}
        with suppress(NotFoundError):
            self._chroma.delete_database(_database(tenant))


def _session(chroma: ServerAPI) -> httpx.Client | None:
    """Return the HTTP client of a server connection; None if Chroma runs in this process."""
    return getattr(chroma, "_session", None)


def _database(tenant: str) -> str:
    """Return the name of a tenant's database; the prefix is there as Chroma rejects short names."""
    return f"{_DATABASE}{tenant}"


def _apart(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add noise to vectors; see `APART`."""
    noise = _NOISE.normal(0, APART / vectors.shape[1] ** 0.5, vectors.shape)
    return vectors + noise.astype(np.float32)


def _where(files: FileFilter) -> dict[str, Any]:
    return {"file": {"$nin" if files.but else "$in": list(files.files)}}


def _best_windows(found: Sequence[tuple[str, float]]) -> list[VectorHit]:
    """Keep each chunk once, with the best of its vectors; best first."""
    best: dict[str, float] = {}
    for vector_id, cosine in found:
        best.setdefault(chunk_key(vector_id), cosine)
    return [VectorHit(key, cosine) for key, cosine in best.items()]
