"""The process that owns the indexes, to be killed: it indexes, recovers, re-embeds, and is used.

It prints what it is about to do and what it has done, one JSON array per line.

    python -m tests.chaos.retrieval_process HOME DATABASE_URL SEED LATER_S
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.background import BackgroundLoop
from models.engine import EngineError
from rag.errors import RagError
from rag.files.blobs import Blobs
from rag.files.expiry import Expiry
from rag.files.files import Files
from rag.index.chroma_index import ChromaIndex
from rag.index.embedder_checks import EmbedderChecks
from rag.index.embedder_versions import ServedEmbedder
from rag.index.lexical_index import text_index
from rag.ingestion.chunking import TextChunk
from rag.ingestion.consistency import Consistency
from rag.ingestion.ingestion import Ingestion, Parser
from rag.ingestion.leases import Leases
from rag.ingestion.recovery import Recovery
from rag.pages import PageQuery
from rag.parsing.parser_process import ChunkingOptions
from rag.reembedding.reembedding import Reembedding
from rag.search.fusion import Weights
from rag.search.retrieval import Query, Retriever
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFiles
from rag.stores.vector_stores import ServedModel, VectorStores
from serving.knowledge.reembedding_jobs import ReembeddingJobs
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from tests.rag.store_with_vectors import WordEmbedder, served

READER = Reader.of("acme")
LEASE_S = 2.0
MARK = "mark"
POLL_S = 0.05
PASSING = (DatabaseUnavailable,)
LEGS = (Weights(embedding=1, text=0), Weights(embedding=0, text=1))


class MarkEmbedder(WordEmbedder):
    """A file's mark determines its chunk's vector, so that a search for it ranks the file first."""

    def _direction(self, word: str) -> NDArray[np.float64]:
        return super()._direction(word) * (100 if word.startswith(MARK) else 1)


class WordParser(Parser):
    """Cuts a text into chunks, where a word counts as a hundred tokens."""

    async def chunks(
        self, path: Path, media_type: str, filename: str, *, cut: ChunkingOptions
    ) -> list[TextChunk]:
        del media_type, filename
        words = (await asyncio.to_thread(path.read_text)).split()
        size = cut.chunk_tokens // 100
        parts = [" ".join(words[at : at + size]) for at in range(0, len(words), size)]
        return [TextChunk(at, part, None, size) for at, part in enumerate(parts)]


class Documents:
    """All of retrieval on directories, as `KnowledgeService` and the gateway share it."""

    def __init__(self, home: Path, url: str, *, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.database = database = Database.open(url)
        self.vectors = vectors = ChromaIndex.embedded(home / "chroma")
        self.embedders = {"old": served(MarkEmbedder(1)), "new": served(MarkEmbedder(2, 24))}
        self.contents = contents = Blobs(str(home / "files"))
        self.text = text = text_index(database.dialect)
        self.files = Files(database, text, clock=clock)
        self.store_files = StoreFiles(database, text, clock=clock)
        self.stores = VectorStores(
            database, text, collections=vectors, embedders=_models(self.embedders),
            default_model="old", store_files=self.store_files, clock=clock,
        )  # fmt: skip
        self.ingestion = Ingestion(
            database, vectors, text,
            leases=Leases(database, text, self.embedders, clock=clock, lease_s=LEASE_S),
            contents=contents, parser=WordParser(),
            checks=EmbedderChecks(self.embedders, clock=clock), passing=PASSING,
        )  # fmt: skip
        self.recovery = Recovery(
            database, vectors, text, contents=contents,
            expiry=Expiry(database, text, clock=clock), clock=clock,
        )  # fmt: skip
        reembedding = Reembedding(database, vectors, self.embedders, clock=clock)
        self.jobs = ReembeddingJobs(reembedding, database)
        self.consistency = Consistency(database, vectors, text, contents)
        self.loops: list[BackgroundLoop] = []
        self.retriever = Retriever(database, vectors, text, clock=clock)

    async def run(self) -> None:
        """What the process does beside being used, for as long as it lives."""
        self.loops = [
            *self.ingestion.loops(workers=2, poll_s=POLL_S),
            *self.recovery.loops(poll_s=POLL_S, sweep_s=0.5),
        ]
        for loop in self.loops:
            loop.start()
        await self.jobs.resume()

    async def upload(self, file_id: str, text: str) -> None:
        """Write bytes first, as the gateway does."""

        async def pieces() -> AsyncIterator[bytes]:
            yield text.encode()

        written = await self.contents.write(READER.tenant, file_id, pieces())
        await self.files.create(
            READER, file_id=file_id, filename="f.txt", purpose="user_data",
            media_type="text/plain", size=written.size, sha256=written.sha256,
            privacy="local_only", access=None, expires_after_s=None,
        )  # fmt: skip

    async def found(self, store_id: str, word: str) -> list[set[str]]:
        """Return the files that contain a word, as each kind of search finds them."""
        (generation,) = await self.stores.generations(READER, [store_id])
        embedded = await self.embedders[generation.model].embedder.embed([word])
        found = []
        for leg in LEGS:
            query = Query(READER, [generation], word, embedded.vectors[0], 50, weights=leg)
            lexical = await self.retriever.lexical(query.question) if leg.text else []
            passages = (await self.retriever.search(replace(query, lexical=lexical))).passages
            found.append({one.file_id for one in passages if word in one.text.split()})
        return found

    async def close(self) -> None:
        """Stop in order, unlike a kill."""
        await self.jobs.close()
        await asyncio.to_thread(self.vectors.close)
        await self.database.close()


def _models(embedders: dict[str, ServedEmbedder]) -> dict[str, ServedModel]:
    return {name: ServedModel(one.embedder, one.revision) for name, one in embedders.items()}


@dataclass
class User:
    """Uses a library at random: small texts, each with a unique word."""

    documents: Documents
    chance: random.Random
    stores: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    attached: list[tuple[str, str]] = field(default_factory=list)

    async def remember(self) -> None:
        """Read what earlier, killed processes have made."""
        documents = self.documents
        self.stores = [
            one.id for one in (await documents.stores.list(READER, PageQuery(limit=100))).rows
        ]
        self.files = [
            one.id for one in (await documents.files.list(READER, PageQuery(limit=100))).rows
        ]
        for store in self.stores:
            rows = (await documents.store_files.list(READER, store, PageQuery(limit=100))).rows
            self.attached += [(store, row.file_id) for row in rows]

    async def use(self) -> None:
        """Perform actions one after another, and sometimes two at a time."""
        await self.remember()
        ways = (
            *(self.make_store, self.upload, self.upload, self.upload, self.attach, self.attach),
            *(self.attach_again, self.detach, self.delete_file, self.delete_store, self.reembed),
        )
        while True:
            picked = [self.chance.choice(ways) for _ in range(self.chance.choice((1, 1, 2)))]
            await asyncio.gather(*(self._try(way) for way in picked))
            await asyncio.sleep(self.chance.random() * 0.02)

    async def _try(self, way: Callable[[], object]) -> None:
        with suppress(RagError, EngineError, DatabaseUnavailable, IndexError):
            await way()  # type: ignore[misc]

    async def make_store(self) -> None:
        if len(self.stores) < 4:
            tell("about", "store")
            made = await self.documents.stores.create(READER, name="s", metadata={})
            self.stores.append(made.id)
            tell("done", "store", made.id)

    async def upload(self) -> None:
        if len(self.files) > 40:
            return
        file_id = f"file-{uuid.uuid4().hex}"
        length = self.chance.choice((3, 20, 400))
        words = " ".join(f"word{self.chance.randrange(10_000)}" for _ in range(length))
        tell("about", "upload", file_id)
        await self.documents.upload(file_id, f"{words} {marker(file_id)}")
        self.files.append(file_id)
        tell("done", "upload", file_id)

    async def attach(self) -> None:
        await self._attach(self.chance.choice(self.stores), self.chance.choice(self.files))

    async def attach_again(self) -> None:
        await self._attach(*self.chance.choice(self.attached))

    async def _attach(self, store: str, file_id: str) -> None:
        chunking = self.chance.choice((None, (200, 0), (300, 100), (1600, 0)))
        tell("about", "attach", store, file_id)
        await self.documents.store_files.attach(
            READER, store, file_id, attributes={}, chunking=chunking
        )
        for loop in self.documents.loops:
            loop.wake()
        self.attached.append((store, file_id))
        tell("done", "attach", store, file_id)

    async def detach(self) -> None:
        store, file_id = self.chance.choice(self.attached)
        tell("about", "detach", store, file_id)
        await self.documents.store_files.detach(READER, store, file_id)
        tell("done", "detach", store, file_id)

    async def delete_file(self) -> None:
        file_id = self.chance.choice(self.files)
        tell("about", "delete", file_id)
        await self.documents.files.delete(READER, file_id)
        self.files.remove(file_id)
        tell("done", "delete", file_id)

    async def delete_store(self) -> None:
        if self.chance.random() < 0.3:
            store = self.chance.choice(self.stores)
            tell("about", "delete store", store)
            await self.documents.stores.delete(READER, store)
            self.stores.remove(store)
            tell("done", "delete store", store)

    async def reembed(self) -> None:
        store, model = self.chance.choice(self.stores), self.chance.choice(("old", "new"))
        tell("about", "reembed")
        await self.documents.jobs.begin(store, model, force=self.chance.random() < 0.2)
        tell("done", "reembed")


def marker(file_id: str) -> str:
    """Return the word that only this file contains."""
    return f"{MARK}{file_id.removeprefix('file-')}"


def tell(*said: str) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def main(home: str, url: str, seed: str, later_s: str) -> None:
    chance = random.Random(int(seed))  # noqa: S311
    later = float(later_s)
    documents = Documents(Path(home), url, clock=lambda: time.time() + later)
    async with asyncio.TaskGroup() as group:
        group.create_task(documents.run())
        group.create_task(User(documents, chance).use())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
