"""Ingestion: files that wait in vector stores are parsed, cut, embedded, written and published.

Vectors are written before their chunks are published in SQL, under an intent that says so: whatever
is killed in between leaves vectors that nobody is shown, and that recovery erases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from sqlalchemy import delete, insert

from models.engine import EngineError, RequestRejected
from rag.database import Database
from rag.errors import FileUnreadable, NotThere, RagError
from rag.index.embedder_checks import EmbedderChecks
from rag.index.protocols import TextIndex, VectorIndex, VectorKey
from rag.ingestion.chunking import Chunk as Piece
from rag.ingestion.leases import Bundle, Claim, Claims, Target, written
from rag.ingestion.publication import withdraw
from rag.parsing.parser_process import Cut
from rag.reembedding.generations import generations
from rag.schema import Chunk, IndexIntent, StoreFile

logger = logging.getLogger("ringfence.ingestion")

WINDOWS = 128
"""Embedded by one call."""

MAX_CHUNKS = 20_000
"""Of one file."""

RETRY_S = 5.0
"""Before files are tried again after something did not answer."""

REFUSED_S = 60.0
"""The same where the embedder is not the one that made the store's vectors."""


class Parser(Protocol):
    """Reads and cuts files: `ParserProcess`."""

    async def chunks(self, path: Path, media_type: str, filename: str, *, cut: Cut) -> list[Piece]:
        """Raises `FileUnreadable`; `OSError` if the file may be fine."""
        ...


class Contents(Protocol):
    """Bytes of files: `Blobs`."""

    def local(self, tenant: str, file_id: str) -> AbstractAsyncContextManager[Path]:
        """The file as one on this machine. Raises `NotThere`, `OSError`."""
        ...


@dataclass(frozen=True, slots=True)
class _Cut:
    """A file that was cut; `usage_bytes` as its store counts them."""

    claim: Claim
    chunks: Sequence[Piece]


class Ingestion:
    """Indexes files, as long as there are any.

    Args:
        database: the truth.
        vectors: the vector index.
        text: the full-text index.
        claims: of this process.
        contents: bytes of files.
        parser: reads and cuts them.
        checks: whether an embedder is the one that made a generation's vectors.
        passing: errors after which files are tried again, such as the database's; ours always are.
    """

    def __init__(
        self,
        database: Database,
        vectors: VectorIndex,
        text: TextIndex,
        *,
        claims: Claims,
        contents: Contents,
        parser: Parser,
        checks: EmbedderChecks,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._claims = claims
        self._contents = contents
        self._parser = parser
        self._checks = checks
        self._passing: tuple[type[Exception], ...] = (
            *(RagError, EngineError, OSError),
            *passing,
        )
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There may be files; look at once."""
        self._work.set()

    async def keep(self, *, workers: int, poll_s: float) -> None:
        """Index what comes, until cancelled.

        Args:
            workers: bundles at a time: one is embedded while another is read or published.
            poll_s: after which files are looked for without being told.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._keep(poll_s))

    async def step(self) -> bool:
        """Index one bundle; whether there was one.

        Raises:
            What the database raises; files that were claimed are claimed again by somebody later.
        """
        bundle = await self._claims.take()
        if bundle is None:
            return False
        async with self._renewed(bundle):
            await self._index(bundle)
        return True

    async def _keep(self, poll_s: float) -> None:
        while True:
            self._work.clear()
            try:
                found = await self.step()
            except self._passing as error:
                logger.warning("indexing is interrupted: %s", type(error).__name__)
                found = False
            if not found:
                with suppress(TimeoutError):
                    async with asyncio.timeout(poll_s):
                        await self._work.wait()

    @asynccontextmanager
    async def _renewed(self, bundle: Bundle) -> AsyncIterator[None]:
        """Our claim is renewed as long as we work on it."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._claims.lease_s / 3)
                with suppress(*self._passing):  # Whoever publishes sees whether it is still ours.
                    await self._claims.renew(bundle)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()

    async def _index(self, bundle: Bundle) -> None:
        """Files that cannot be read fail; if something does not answer, all wait."""
        cut: list[_Cut] = []
        try:
            if await self._refused(bundle):
                return
            cut = await self._cut(bundle)
            for target in bundle.targets:
                await self._write(target, cut)
            await self._publish(bundle, cut)
        except self._passing as error:
            logger.warning("files wait to be indexed again: %s", type(error).__name__)
            blamed = isinstance(error, RequestRejected)
            await self._claims.release(bundle, wait_s=RETRY_S, blamed=blamed)

    async def _refused(self, bundle: Bundle) -> bool:
        """Whether an embedder is another than before; then files wait."""
        for target in bundle.targets:
            if (reason := await self._checks.refusal(target.generation)) is not None:
                logger.error("%s", reason)
                await self._claims.release(bundle, wait_s=REFUSED_S)
                return True
        return False

    async def _cut(self, bundle: Bundle) -> list[_Cut]:
        """The chunks of each file that can be read; others fail."""
        tokenizer = bundle.targets[0].served.tokenizer
        reading = [self._cut_one(bundle, claim, tokenizer) for claim in bundle.claims]
        return [one for one in await asyncio.gather(*reading) if one is not None]

    async def _cut_one(self, bundle: Bundle, claim: Claim, tokenizer: str) -> _Cut | None:
        cut = Cut(tokenizer, claim.chunk_tokens, claim.overlap_tokens)
        try:
            async with self._contents.local(bundle.tenant, claim.file_id) as path:
                chunks = await self._parser.chunks(path, claim.media_type, claim.filename, cut=cut)
            return _Cut(claim, _bounded(chunks))
        except NotThere:
            gone = FileUnreadable("The content of the file is gone.", code="server_error")
            await self._claims.fail(bundle, claim, gone)
        except FileUnreadable as reason:
            await self._claims.fail(bundle, claim, reason)
        return None

    async def _write(self, target: Target, cut: Sequence[_Cut]) -> None:
        """Embed the chunks of all files together, and write their vectors."""
        named = await asyncio.to_thread(_windows, target, cut)
        for begin in range(0, len(named), WINDOWS):
            part = named[begin : begin + WINDOWS]
            embedded = await target.served.embedder.embed([window for _, window in part])
            vectors = np.asarray(embedded.vectors, dtype=np.float32)
            keys = [key for key, _ in part]
            await self._vectors.write(target.generation.collection, keys, vectors)

    async def _publish(self, bundle: Bundle, cut: Sequence[_Cut]) -> None:
        """Show the chunks, unless somebody else has the file now, or the vectors do not count."""
        async with self._database.transaction() as session:
            found = await generations(session, bundle.store_id, lock=True)
            targets = {target.generation.id for target in bundle.targets}
            searched = found.active is not None and found.active.id in targets
            rows = await self._claims.ours(session, bundle) if searched else {}
            shown = [one for one in cut if one.claim.store_file in rows]
            if again := [one.claim.file_id for one in shown if rows[one.claim.store_file].version]:
                await withdraw(session, self._text, bundle.store_id, again)
            chunks = [_row(bundle, one.claim, chunk) for one in shown for chunk in one.chunks]
            if chunks:
                await session.execute(insert(Chunk), chunks)
            for one in shown:
                await self._text.add(session, bundle.store_number, one.claim.version)
                _complete(rows[one.claim.store_file], one)
            published = written([one.claim for one in shown])
            await session.execute(delete(IndexIntent).where(published))
            await self._claims.drop_vectors(session, bundle, bundle.claims)


def _complete(row: StoreFile, one: _Cut) -> None:
    row.version, row.status = one.claim.version, "completed"
    row.lease_owner, row.error_code, row.error_message = None, None, None
    row.usage_bytes = sum(len(chunk.text.encode()) for chunk in one.chunks)


def _bounded(chunks: Sequence[Piece]) -> Sequence[Piece]:
    if not chunks:
        raise FileUnreadable("The file has no text.")
    if len(chunks) > MAX_CHUNKS:
        raise FileUnreadable(
            f"The file has {len(chunks):,} chunks; the most is {MAX_CHUNKS:,}. Split it."
        )
    return chunks


def _windows(target: Target, cut: Iterable[_Cut]) -> list[tuple[VectorKey, str]]:
    """What is embedded, and the name of each vector."""
    windows: Callable[[str], list[str]] = target.served.windows
    return [
        (VectorKey(one.claim.file_id, one.claim.version, chunk.position, number), window)
        for one in cut
        for chunk in one.chunks
        for number, window in enumerate(windows(chunk.text))
    ]


def _row(bundle: Bundle, claim: Claim, chunk: Piece) -> dict[str, str | int | None]:
    return {
        "key": f"{claim.version}:{chunk.position}",
        "store_number": bundle.store_number,
        "store_file_id": claim.store_file,
        "version": claim.version,
        "position": chunk.position,
        "page": chunk.page,
        "tokens": chunk.tokens,
        "text": chunk.text,
    }
