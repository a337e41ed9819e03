"""Files and vector stores of two tenants on SQL, with a controlled clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, update

from rag.files.file_batches import FileBatches
from rag.files.files import FileRecord, Files
from rag.index.lexical_index import text_index
from rag.index.protocols import TextIndex
from rag.schema import Base, ChunkRow, IndexGeneration, IndexIntent, StoreFile, VectorStore
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFiles
from rag.stores.vector_stores import ServedModel, VectorStores
from serving.access.tenants import TenantStore
from serving.storage.database import Database
from tests.rag.store_with_vectors import MemoryVectors, WordEmbedder

ACME = Reader.of("acme")
ANN = Reader.of("acme", ["legal"], "ann")
LEGAL = Reader.of("acme", ["legal"])
SALES = Reader.of("acme", ["sales"])
OTHER = Reader.of("other")
STRANGERS = (SALES, OTHER)
"""Readers who may not see what is for `group:legal` of acme."""

MAX_FILES = 3000


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """Everything behind the routes of files and vector stores, except the bytes."""

    def __init__(self, database: Database, *, max_files: int = MAX_FILES) -> None:
        self.database = database
        self.clock = Clock()
        self.text: TextIndex = text_index(database.dialect)
        self.vectors = MemoryVectors()
        self.small = WordEmbedder(1, 16)
        self.files = Files(database, self.text, clock=self.clock)
        self.store_files = StoreFiles(
            database, self.text, max_files=max_files, clock=self.clock
        )  # fmt: skip
        self.batches = FileBatches(
            database, self.text, store_files=self.store_files, clock=self.clock
        )
        self.stores = VectorStores(
            database, self.text, collections=self.vectors, default_model="small",
            embedders={
                "small": ServedModel(self.small, "r1"),
                "large": ServedModel(WordEmbedder(2, 24), "r2"),
            },
            store_files=self.store_files, clock=self.clock,
        )  # fmt: skip

    @classmethod
    async def open(cls, database: Database, *, max_files: int = MAX_FILES) -> Place:
        """Create two tenants without files or stores."""
        for tenant in ("acme", "other"):
            await TenantStore(database).create(tenant)
        return cls(database, max_files=max_files)

    async def upload(
        self,
        name: str,
        reader: Reader = ACME,
        *,
        access: Sequence[str] | None = None,
        purpose: str = "user_data",
        expires_after_s: int | None = None,
    ) -> str:
        """Create a file with that id in SQL."""
        made: FileRecord = await self.files.create(
            reader, file_id=name, filename=f"{name}.txt", purpose=purpose, media_type="text/plain",
            size=3, sha256="ab", privacy="local_only", access=access,
            expires_after_s=expires_after_s,
        )  # fmt: skip
        return made.id

    async def upload_many(self, count: int, reader: Reader = ACME) -> list[str]:
        return [await self.upload(f"file-{number:04}", reader) for number in range(count)]

    async def store(
        self,
        *file_ids: str,
        reader: Reader = ACME,
        access: Sequence[str] | None = None,
        days: int | None = None,
    ) -> str:
        """Create a vector store with files."""
        made = await self.stores.create(
            reader, name="s", metadata={}, access=access, expires_after_days=days,
            file_ids=file_ids,
        )  # fmt: skip
        return made.id

    async def publish(self, store_id: str, file_id: str, *texts: str) -> str:
        """Publish a file as ingestion does; returns the version."""
        version = f"v-{store_id[-8:]}-{file_id}"
        async with self.database.transaction() as session:
            number = await session.scalar(
                select(VectorStore.number).where(VectorStore.id == store_id)
            )
            assert number is not None
            here = (StoreFile.store_id == store_id) & (StoreFile.file_id == file_id)
            row = await session.scalar(select(StoreFile.id).where(here))
            facts = {"store_number": number, "store_file_id": row, "version": version, "tokens": 1}
            await session.execute(
                insert(ChunkRow),
                [
                    {**facts, "key": f"{version}:{position}", "position": position, "text": text}
                    for position, text in reversed(list(enumerate(texts)))
                ],
            )
            await self.text.add(session, number, version)
            done = {"status": "completed", "version": version, "usage_bytes": 10}
            await session.execute(update(StoreFile).where(here).values(**done))
        return version

    async def set_status(self, store_id: str, file_id: str, status: str, **facts: object) -> None:
        """Set the status of a file as an indexer does."""
        here = (StoreFile.store_id == store_id) & (StoreFile.file_id == file_id)
        async with self.database.transaction() as session:
            await session.execute(update(StoreFile).where(here).values(status=status, **facts))

    async def store_file(self, store_id: str, file_id: str) -> StoreFile:
        """Return the row of a file in a store."""
        here = (StoreFile.store_id == store_id) & (StoreFile.file_id == file_id)
        async with self.database.session() as session:
            return (await session.scalars(select(StoreFile).where(here))).one()

    async def intents(self) -> set[tuple[str, str]]:
        """Return kind and subject of all intents."""
        async with self.database.session() as session:
            found = await session.execute(select(IndexIntent.kind, IndexIntent.subject))
            return {(kind, subject) for kind, subject in found}

    async def forget_intents(self) -> None:
        """Delete all intents, as recovery does if it comes too early."""
        async with self.database.transaction() as session:
            await session.execute(delete(IndexIntent))

    async def collection(self, store_id: str) -> str:
        """Return the collection of a store."""
        async with self.database.session() as session:
            found = select(IndexGeneration.collection).where(IndexGeneration.store_id == store_id)
            return (await session.scalars(found)).one()

    async def count(self, table: type[Base]) -> int:
        """Count the rows of a table."""
        async with self.database.session() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0

    async def tables(self) -> list[int]:
        """Return the numbers of the stores that have a full-text table."""
        async with self.database.session() as session:
            return await self.text.stores(session)
