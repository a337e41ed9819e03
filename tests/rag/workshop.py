"""Ingestion of files into vector stores: the real SQL parts, with texts instead of documents."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rag.errors import FileUnreadable, NotThere
from rag.files.expiry import Expiry
from rag.files.files import Files
from rag.index.embedder_checks import EmbedderChecks
from rag.index.lexical_index import text_index
from rag.ingestion.chunking import TextChunk
from rag.ingestion.consistency import Consistency
from rag.ingestion.ingestion import Ingestion, Parser
from rag.ingestion.leases import IngestBatch, Leases
from rag.ingestion.recovery import Recovery
from rag.parsing.parser_process import ChunkingOptions
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFileRecord, StoreFiles
from rag.stores.vector_stores import ServedModel, VectorStores
from serving.access.tenants import TenantStore
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from tests.rag.store_with_vectors import MemoryVectors, WordEmbedder, served

READER = Reader.of("acme")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Texts:
    """Contents of files by id; the part of `Blobs` that retrieval needs."""

    kept: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: float = 0.0

    @asynccontextmanager
    async def local(self, tenant: str, file_id: str) -> AsyncIterator[Path]:
        if (tenant, file_id) not in self.kept:
            raise NotThere("No such file.")
        yield Path(tenant, file_id)

    async def delete(self, tenant: str, file_id: str) -> None:
        self.kept.pop((tenant, file_id), None)

    async def listed(self) -> AsyncIterator[tuple[str, str, float]]:
        for tenant, file_id in list(self.kept):
            yield tenant, file_id, self.changed

    async def sweep_drafts(self, older_than: float) -> None:
        del older_than


class LineParser(Parser):
    """Makes a chunk of each line of a text; a text with BROKEN cannot be read."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.cuts: list[ChunkingOptions] = []
        self.down = False

    async def chunks(
        self, path: Path, media_type: str, filename: str, *, cut: ChunkingOptions
    ) -> list[TextChunk]:
        del media_type, filename
        self.cuts.append(cut)
        if self.down:
            raise ConnectionAbortedError
        text = self.texts.kept[path.parts[0], path.parts[1]]
        if "BROKEN" in text:
            raise FileUnreadable("The file is broken.")
        return [TextChunk(at, line, None, 1) for at, line in enumerate(text.splitlines())]


class Workshop:
    """All of indexing on one database. A second instance acts as another process."""

    def __init__(self, database: Database, first: Workshop | None = None) -> None:
        self.database = database
        self.clock: Clock = first.clock if first else Clock()
        self.vectors: MemoryVectors = first.vectors if first else MemoryVectors()
        self.texts: Texts = first.texts if first else Texts()
        self.embedders = {"old": served(WordEmbedder(1)), "new": served(WordEmbedder(2, 24))}
        self.parser = LineParser(self.texts)
        text, clock = text_index(database.dialect), self.clock
        self.text = text
        self.files = Files(database, text, clock=clock)
        self.store_files = StoreFiles(database, text, clock=clock)
        self.stores = VectorStores(
            database, text, collections=self.vectors,
            embedders={
                name: ServedModel(one.embedder, one.revision)
                for name, one in self.embedders.items()
            },
            default_model="old", store_files=self.store_files, clock=clock,
        )  # fmt: skip
        self.leases = Leases(database, text, self.embedders, clock=clock)
        self.ingestion = Ingestion(
            database, self.vectors, text, leases=self.leases, contents=self.texts,
            parser=self.parser, checks=EmbedderChecks(self.embedders, clock=clock),
            passing=(DatabaseUnavailable,),
        )  # fmt: skip
        self.expiry = Expiry(database, text, clock=clock)
        self.recovery = Recovery(
            database, self.vectors, text, contents=self.texts, expiry=self.expiry, clock=clock
        )  # fmt: skip
        self.consistency = Consistency(database, self.vectors, text, self.texts)

    async def open(self, *tenants: str) -> None:
        """Create tenants."""
        for tenant in tenants or ("acme",):
            await TenantStore(self.database).create(tenant)

    async def store(self, reader: Reader = READER, name: str = "s") -> str:
        """Create a vector store."""
        return (await self.stores.create(reader, name=name, metadata={})).id

    async def upload(self, text: str, reader: Reader = READER, lasts_s: int | None = None) -> str:
        """Create a file."""
        file_id = f"file-{uuid.uuid4().hex}"
        self.texts.kept[reader.tenant, file_id] = text
        await self.files.create(
            reader, file_id=file_id, filename="f.txt", purpose="user_data",
            media_type="text/plain", size=len(text), sha256="0", privacy="local_only",
            access=None, expires_after_s=lasts_s,
        )  # fmt: skip
        return file_id

    async def attach(self, store: str, *file_ids: str, reader: Reader = READER) -> None:
        """Put files into a store."""
        for file_id in file_ids:
            await self.store_files.attach(reader, store, file_id, attributes={}, chunking=None)

    async def file(self, store: str, file_id: str, reader: Reader = READER) -> StoreFileRecord:
        """Return a file in a store."""
        return await self.store_files.get(reader, store, file_id)

    async def index(self) -> int:
        """Index everything that waits; returns the number of batches."""
        batches = 0
        while await self.ingestion.step():
            batches += 1
        return batches

    def versions(self) -> set[str]:
        """Return the versions that have vectors anywhere."""
        kept = self.vectors.kept.values()
        return {key.partition(":")[0] for rows in kept for key in rows}

    async def published(self, text: str = "apple") -> tuple[str, str]:
        """Create a store with a published file."""
        store, file = await self.store(), await self.upload(text)
        await self.attach(store, file)
        await self.index()
        return store, file

    async def leased(self) -> IngestBatch:
        """Lease the next files."""
        batch = await self.leases.take()
        assert batch is not None
        return batch

    async def written(self) -> IngestBatch:
        """Lease files and write their vectors, as a writer does that then crashes."""
        batch = await self.leased()
        await self.ingestion._write(batch.targets[0], await self.ingestion._cut(batch))
        return batch
