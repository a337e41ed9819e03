"""A vector store in SQL with vectors in memory: embedded, ingested and deleted as usual."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, insert, select

from models.embedding.embedder import Embedder, Embeddings, Inputs
from rag.index.embedder_versions import ServedEmbedder, pin
from rag.index.protocols import Collection, FileFilter, VectorHit, VectorIndex, VectorKey, chunk_key
from rag.schema import ChunkRow, File, IndexGeneration, IndexIntent, StoreFile, VectorStore
from serving.access.tenants import TenantStore
from serving.storage.database import Database

STORE = "vs_1"
TENANT = "acme"


class WordEmbedder(Embedder):
    """Sums a random direction for each word; another seed makes another model."""

    def __init__(self, seed: int = 0, dimension: int = 16, noise: float = 0.0) -> None:
        self.seed, self.dimension, self.noise = seed, dimension, noise
        self.before: Callable[[], None] = lambda: None

    async def embed(self, inputs: Inputs) -> Embeddings:
        self.before()
        await asyncio.sleep(0)
        vectors = np.stack([self._vector(str(text)) for text in inputs])
        return Embeddings(vectors, [1] * len(inputs))

    def _vector(self, text: str) -> NDArray[np.float32]:
        words = text.split() or [""]
        vector = np.sum([self._direction(word) for word in words], axis=0)
        vector = vector + self.noise * self._direction("noise of " + text)
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    def _direction(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}{word}".encode()).digest()[:8])
        return np.random.default_rng(seed).normal(size=self.dimension)


@dataclass
class MemoryVectors(VectorIndex):
    """`VectorIndex` in a dictionary. `before` is called at the start of each call."""

    kept: dict[Collection, dict[str, tuple[str, NDArray[np.float32]]]] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None

    async def create(self, collection: Collection) -> None:
        await self._step()
        self.kept.setdefault(collection, {})

    async def drop(self, collection: Collection) -> None:
        await self._step()
        self.kept.pop(collection, None)

    async def write(
        self, collection: Collection, keys: Sequence[VectorKey], vectors: NDArray[np.float32]
    ) -> None:
        await self._step()
        for key, vector in zip(keys, vectors, strict=True):
            self.kept[collection][key.id] = (key.file_id, vector)
        await self._step()

    async def erase(self, collection: Collection, version: str) -> None:
        await self._step()
        for one in [one for one in self.kept[collection] if one.startswith(f"{version}:")]:
            del self.kept[collection][one]

    async def search(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[VectorHit]:
        assert files is None
        await self._step()
        best: dict[str, float] = {}
        for one, (_, kept) in self.kept[collection].items():
            key = chunk_key(one)
            best[key] = max(best.get(key, -1.0), float(kept @ vector))
        ranked = sorted(best.items(), key=lambda pair: -pair[1])[:limit]
        return [VectorHit(key, cosine) for key, cosine in ranked]

    async def ids(self, collection: Collection) -> AsyncIterator[list[str]]:
        await self._step()
        yield list(self.kept[collection])

    async def sample(self, collection: Collection, limit: int) -> NDArray[np.float32]:
        await self._step()
        return np.stack([vector for _, vector in self.kept[collection].values()][:limit])

    async def collections(self) -> list[Collection]:
        return list(self.kept)

    async def forget(self, tenant: str) -> None:
        self.kept = {where: rows for where, rows in self.kept.items() if where.tenant != tenant}

    async def _step(self) -> None:
        self.before()
        await asyncio.sleep(0)


def served(embedder: WordEmbedder, revision: str = "r1") -> ServedEmbedder:
    """Serve an embedder whose windows have three words."""

    def windows(text: str) -> list[str]:
        words = text.split()
        return [" ".join(words[at : at + 3]) for at in range(0, len(words), 3)]

    return ServedEmbedder(embedder, revision, windows)


class Shelf:
    """One vector store; `old` embeds it, and `new` is served too."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.vectors = MemoryVectors()
        self.embedders = {"old": served(WordEmbedder(1)), "new": served(WordEmbedder(2, 24))}
        self._number = 0

    async def make(self) -> None:
        """Create an empty store with an active generation."""
        await TenantStore(self.database).create(TENANT)
        await self.vectors.create(Collection(TENANT, "gen_old"))
        pinned = await pin(self.embedders["old"].embedder, "old", "r1")
        async with self.database.transaction() as session:
            session.add(
                VectorStore(
                    id=STORE, tenant=TENANT, name="s", details={}, created_at=0, last_active_at=0
                )
            )
            await session.flush()
            session.add(
                IndexGeneration(
                    id="gen_old", store_id=STORE, state="active", collection="gen_old",
                    model="old", revision="r1", dimension=pinned.dimension,
                    canaries=pinned.canaries, created_at=0, reembedded_to=0,
                )
            )  # fmt: skip

    async def ingest(self, chunks: Sequence[str], created_at: int = 0) -> str:
        """Ingest a file: intents, vectors in every live generation, then publication."""
        self._number += 1
        file_id, version = f"file_{self._number}", f"v{self._number}"
        async with self.database.transaction() as session:
            session.add(
                File(
                    id=file_id, tenant=TENANT, filename="f", purpose="user_data", media_type="t",
                    bytes=1, sha256="0", privacy="local_only", created_at=0,
                )
            )  # fmt: skip
            live = list(await self._live(session))
            for generation in live:
                session.add(
                    IndexIntent(
                        kind="write", tenant=TENANT, subject=version,
                        collection=generation.collection, until=time.time() + 60,
                    )
                )  # fmt: skip
        for generation in live:
            embedder = self.embedders[generation.model]
            named = [
                (VectorKey(file_id, version, position, number), window)
                for position, text in enumerate(chunks)
                for number, window in enumerate(embedder.windows(text))
            ]
            embedded = await embedder.embedder.embed([window for _, window in named])
            place = Collection(TENANT, generation.collection)
            await self.vectors.write(place, [key for key, _ in named], embedded.vectors)
        await self._publish(file_id, version, chunks, created_at)
        return file_id

    async def _live(self, session: object) -> Sequence[IndexGeneration]:
        found = await session.scalars(  # type: ignore[attr-defined]
            select(IndexGeneration).where(IndexGeneration.state.in_(("active", "building")))
        )
        return list(found)

    async def _publish(
        self, file_id: str, version: str, chunks: Sequence[str], created_at: int
    ) -> None:
        async with self.database.transaction() as session:
            row = StoreFile(
                store_id=STORE, file_id=file_id, created_at=created_at, status="completed",
                attributes={}, strategy="auto", chunk_tokens=800, overlap_tokens=400,
                version=version, usage_bytes=1, tries=1, lease_until=0.0,
            )  # fmt: skip
            session.add(row)
            await session.flush()
            await session.execute(
                insert(ChunkRow),
                [
                    {
                        "key": f"{version}:{position}", "store_number": 1, "store_file_id": row.id,
                        "version": version, "position": position, "tokens": 1, "text": text,
                    }
                    for position, text in enumerate(chunks)
                ],
            )  # fmt: skip
            await session.execute(
                delete(IndexIntent).where(
                    IndexIntent.subject == version, IndexIntent.kind == "write"
                )
            )

    async def remove(self, file_id: str) -> None:
        """Delete a file: its rows, then its vectors in every generation."""
        async with self.database.transaction() as session:
            found = select(StoreFile.version).where(StoreFile.file_id == file_id)
            version = await session.scalar(found)
            names = list(await session.scalars(select(IndexGeneration.collection)))
            await session.execute(delete(File).where(File.id == file_id))
        for name in names:
            await self.vectors.erase(Collection(TENANT, name), version or "")

    async def states(self) -> dict[str, str]:
        """Return the state of each generation."""
        async with self.database.session() as session:
            found = await session.scalars(select(IndexGeneration))
            return {generation.id: generation.state for generation in found}

    async def findings(self, generation_id: str) -> list[str]:
        """Report where SQL and the vectors of a generation disagree."""
        async with self.database.session() as session:
            generation = await session.get_one(IndexGeneration, generation_id)
            published = (StoreFile.id == ChunkRow.store_file_id) & (
                StoreFile.version == ChunkRow.version
            )
            chunks = await session.execute(
                select(ChunkRow.version, ChunkRow.position, ChunkRow.text).join(
                    StoreFile, published
                )
            )
            windows = self.embedders[generation.model].windows
            expected = {
                VectorKey("", version, position, number).id
                for version, position, text in chunks
                for number, _ in enumerate(windows(text))
            }
            intents = await session.scalar(
                select(func.count()).select_from(IndexIntent).where(IndexIntent.kind == "write")
            )
        kept = self.vectors.kept[Collection(TENANT, generation.collection)]
        wrong = {len(vector) for _, vector in kept.values()} - {generation.dimension}
        findings = [f"vector {one}" for one in sorted(expected ^ set(kept))]
        return findings + [f"dimension {one}" for one in wrong] + ["intent"] * (intents or 0)
