"""Ingestion: waiting files are parsed, chunked, embedded, written and published.

Vectors are written before SQL publishes their chunks, under an intent. A crash in between leaves
vectors that no search returns and that recovery erases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from sqlalchemy import delete, insert

from models.background import BackgroundLoop
from models.engine import EngineError, RequestRejected
from models.threads import Threads
from rag.database import SqlDatabase
from rag.errors import FileUnreadable, NotThere, RagError
from rag.index.embedder_checks import EmbedderChecks
from rag.index.protocols import TextIndex, VectorIndex, VectorKey
from rag.ingestion.chunking import TextChunk
from rag.ingestion.leases import IngestBatch, Lease, Leases, WriteTarget, is_write_of
from rag.ingestion.publication import withdraw
from rag.parsing.parser_process import ChunkingOptions
from rag.reembedding.generations import generations
from rag.schema import ChunkRow, IndexIntent, StoreFile

logger = logging.getLogger("ringfence.ingestion")

_THREADS = Threads("windows", 2)

WINDOWS = 128
"""Texts in one call of the embedder."""

MAX_CHUNKS = 20_000
"""Maximum chunks of one file."""

RETRY_S = 5.0
"""Delay before files are retried after something did not answer."""

REFUSED_S = 60.0
"""Delay before files are retried if another embedder made the store's vectors."""


class Parser(Protocol):
    """Parses and chunks files; `ParserProcess` does."""

    async def chunks(
        self, path: Path, media_type: str, filename: str, *, cut: ChunkingOptions
    ) -> list[TextChunk]:
        """Return the chunks of a file.

        Raises:
            FileUnreadable: the file cannot be read.
            OSError: the parser failed; the file may be fine.
        """
        ...


class LocalBlobs(Protocol):
    """Makes blobs available as local files; `Blobs` does."""

    def local(self, tenant: str, file_id: str) -> AbstractAsyncContextManager[Path]:
        """Return a local file with the blob's bytes. Raises `NotThere`, `OSError`."""
        ...


@dataclass(frozen=True, slots=True)
class _ChunkedFile:
    """A file and its chunks."""

    lease: Lease
    chunks: Sequence[TextChunk]


class Ingestion:
    """Indexes waiting files.

    Args:
        leases: the leases of this process.
        contents: the blob store.
        parser: reads and chunks files.
        checks: verifies that an embedder made a generation's vectors.
        passing: further errors after which files are retried, such as the database's.
    """

    def __init__(
        self,
        database: SqlDatabase,
        vectors: VectorIndex,
        text: TextIndex,
        *,
        leases: Leases,
        contents: LocalBlobs,
        parser: Parser,
        checks: EmbedderChecks,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._leases = leases
        self._contents = contents
        self._parser = parser
        self._checks = checks
        self._passing: tuple[type[Exception], ...] = (
            *(RagError, EngineError, OSError),
            *passing,
        )
        self._in_work: list[IngestBatch] = []

    def loops(self, *, workers: int, poll_s: float) -> list[BackgroundLoop]:
        """The loops that index files and renew leases. A worker that is woken looks at once.

        Args:
            workers: batches at a time. One is embedded while another is parsed or published.
            poll_s: time between two looks for files of a worker that nobody wakes.
        """
        renew_s = self._leases.lease_s / 3
        return [
            BackgroundLoop("ingestion_leases", self._renew, every_s=renew_s, longest_s=renew_s),
            *(
                BackgroundLoop(f"ingestion_{number}", self._work, every_s=poll_s, at_once=True)
                for number in range(1, workers + 1)
            ),
        ]

    async def step(self) -> bool:
        """Index one batch. Returns whether there was one.

        Raises:
            Whatever the database raises; the files are leased again later.
        """
        batch = await self._leases.take()
        if batch is None:
            return False
        with self._renewed(batch):
            await self._index(batch)
        return True

    async def _work(self) -> None:
        while await self.step():
            pass

    @contextmanager
    def _renewed(self, batch: IngestBatch) -> Iterator[None]:
        """Have the lease of a batch renewed."""
        self._in_work.append(batch)
        try:
            yield
        finally:
            self._in_work.remove(batch)

    async def _renew(self) -> None:
        """Renew every lease. Publishing checks whether a lease still holds."""
        for batch in list(self._in_work):
            await self._leases.renew(batch)

    async def _index(self, batch: IngestBatch) -> None:
        """Index a batch. Unreadable files fail; if a dependency fails, all files wait."""
        cut: list[_ChunkedFile] = []
        try:
            if await self._refused(batch):
                return
            cut = await self._cut(batch)
            for target in batch.targets:
                await self._write(target, cut)
            await self._publish(batch, cut)
        except self._passing as error:
            logger.warning("files wait to be indexed again: %s", type(error).__name__)
            blamed = isinstance(error, RequestRejected)
            await self._leases.release(batch, wait_s=RETRY_S, blamed=blamed)

    async def _refused(self, batch: IngestBatch) -> bool:
        """Whether another embedder made the vectors; if so, the files wait."""
        for target in batch.targets:
            if (reason := await self._checks.refusal(target.generation)) is not None:
                logger.error("%s", reason)
                await self._leases.release(batch, wait_s=REFUSED_S)
                return True
        return False

    async def _cut(self, batch: IngestBatch) -> list[_ChunkedFile]:
        """Chunk each file; unreadable ones fail and are left out."""
        tokenizer = batch.targets[0].served.tokenizer
        reading = [self._cut_one(batch, lease, tokenizer) for lease in batch.leases]
        return [one for one in await asyncio.gather(*reading) if one is not None]

    async def _cut_one(
        self, batch: IngestBatch, lease: Lease, tokenizer: str
    ) -> _ChunkedFile | None:
        cut = ChunkingOptions(tokenizer, lease.chunk_tokens, lease.overlap_tokens)
        try:
            async with self._contents.local(batch.tenant, lease.file_id) as path:
                chunks = await self._parser.chunks(path, lease.media_type, lease.filename, cut=cut)
            return _ChunkedFile(lease, _bounded(chunks))
        except NotThere:
            gone = FileUnreadable("The content of the file is gone.", code="server_error")
            await self._leases.fail(batch, lease, gone)
        except FileUnreadable as reason:
            await self._leases.fail(batch, lease, reason)
        return None

    async def _write(self, target: WriteTarget, cut: Sequence[_ChunkedFile]) -> None:
        """Embed the chunks of all files together, and write their vectors."""
        named = await _THREADS.run(_windows, target, cut)
        for begin in range(0, len(named), WINDOWS):
            part = named[begin : begin + WINDOWS]
            embedded = await target.served.embedder.embed([window for _, window in part])
            vectors = np.asarray(embedded.vectors, dtype=np.float32)
            keys = [key for key, _ in part]
            await self._vectors.write(target.generation.collection, keys, vectors)

    async def _publish(self, batch: IngestBatch, cut: Sequence[_ChunkedFile]) -> None:
        """Publish the chunks of files whose lease and vectors still hold."""
        async with self._database.transaction() as session:
            found = await generations(session, batch.store_id, lock=True)
            targets = {target.generation.id for target in batch.targets}
            searched = found.active is not None and found.active.id in targets
            rows = await self._leases.held(session, batch) if searched else {}
            shown = [one for one in cut if one.lease.store_file in rows]
            if again := [one.lease.file_id for one in shown if rows[one.lease.store_file].version]:
                await withdraw(session, self._text, batch.store_id, again)
            chunks = [_row(batch, one.lease, chunk) for one in shown for chunk in one.chunks]
            if chunks:
                await session.execute(insert(ChunkRow), chunks)
            for one in shown:
                await self._text.add(session, batch.store_number, one.lease.version)
                _complete(rows[one.lease.store_file], one)
            published = is_write_of([one.lease for one in shown])
            await session.execute(delete(IndexIntent).where(published))
            await self._leases.drop_vectors(session, batch, batch.leases)


def _complete(row: StoreFile, one: _ChunkedFile) -> None:
    row.version, row.status = one.lease.version, "completed"
    row.lease_owner, row.error_code, row.error_message = None, None, None
    row.usage_bytes = sum(len(chunk.text.encode()) for chunk in one.chunks)


def _bounded(chunks: Sequence[TextChunk]) -> Sequence[TextChunk]:
    if not chunks:
        raise FileUnreadable("The file has no text.")
    if len(chunks) > MAX_CHUNKS:
        raise FileUnreadable(
            f"The file has {len(chunks):,} chunks; the most is {MAX_CHUNKS:,}. Split it."
        )
    return chunks


def _windows(target: WriteTarget, cut: Iterable[_ChunkedFile]) -> list[tuple[VectorKey, str]]:
    """Return the texts to embed, each with the key of its vector."""
    windows: Callable[[str], list[str]] = target.served.windows
    return [
        (VectorKey(one.lease.file_id, one.lease.version, chunk.position, number), window)
        for one in cut
        for chunk in one.chunks
        for number, window in enumerate(windows(chunk.text))
    ]


def _row(batch: IngestBatch, lease: Lease, chunk: TextChunk) -> dict[str, str | int | None]:
    return {
        "key": f"{lease.version}:{chunk.position}",
        "store_number": batch.store_number,
        "store_file_id": lease.store_file,
        "version": lease.version,
        "position": chunk.position,
        "page": chunk.page,
        "tokens": chunk.tokens,
        "text": chunk.text,
    }
