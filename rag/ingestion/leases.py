"""Leases: decides which process indexes which files. After a crash, others take over.

Tenants take turns, and so do the stores of one tenant. Knows neither documents nor vectors.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import SqlDatabase
from rag.errors import FileUnreadable
from rag.index.embedder_versions import ServedEmbedder
from rag.index.protocols import Generation, TextIndex
from rag.ingestion.publication import withdraw
from rag.reembedding.generations import Generations, generations
from rag.schema import File, IndexIntent, StoreFile, VectorStore

LEASE_S = 60.0
"""Time after which another process may take the files of one that died."""

FILES = 64
"""Files in a batch at most. Many small files fill the embedder's batches."""

BYTES = 8 * 1024 * 1024
"""Total size of the files of a batch. A larger file gets a batch of its own."""

SUSPICIOUS_TRIES = 3
"""A file tried this often gets a batch of its own, so that it fails no others."""

MAX_TRIES = 10

_WRITE, _DUE = "write", "in_progress"


@dataclass(frozen=True, slots=True)
class Lease:
    """A file that this process may index; its chunks will have the version `version`."""

    store_file: int
    file_id: str
    filename: str
    media_type: str
    bytes: int
    chunk_tokens: int
    overlap_tokens: int
    version: str


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """A generation to write vectors to, and the embedder that makes them."""

    generation: Generation
    served: ServedEmbedder


@dataclass(frozen=True, slots=True)
class IngestBatch:
    """Files of one store that are indexed together; the first target is the searched generation."""

    store_id: str
    store_number: int
    tenant: str
    leases: Sequence[Lease]
    targets: Sequence[WriteTarget]


@dataclass(frozen=True, slots=True)
class _Store:
    id: str
    number: int
    tenant: str


class Leases:
    """Acquires, renews and gives back the leases of this process.

    Args:
        embedders: the embedders that are served, by model.
        clock: returns Unix seconds.
        lease_s: lifetime of a lease that is not renewed.
    """

    def __init__(
        self,
        database: SqlDatabase,
        text: TextIndex,
        embedders: Mapping[str, ServedEmbedder],
        *,
        clock: Callable[[], float],
        lease_s: float = LEASE_S,
    ) -> None:
        self.lease_s = lease_s
        self._database = database
        self._text = text
        self._embedders = embedders
        self._clock = clock
        self._owner = uuid.uuid4().hex
        self._turns: dict[str, float] = {}

    async def take(self) -> IngestBatch | None:
        """Lease the next files and record intents for their vectors; None if no file waits.

        A store whose embedder is not served is skipped; its files keep waiting.
        """
        async with self._database.session() as session:
            waiting = await self._waiting(session)
        for store in self._in_turn(waiting):
            async with self._database.transaction() as session:
                found = await generations(session, store.id, lock=True)
                targets = self._targets(found)
                leases = await self._lease(session, store) if targets else []
                self._intend(session, targets, leases)
            if leases:
                self._turns[store.tenant] = self._turns[store.id] = self._clock()
                return IngestBatch(store.id, store.number, store.tenant, leases, targets)
        return None

    async def renew(self, batch: IngestBatch) -> None:
        """Extend the leases of a batch and the intents for its vectors."""
        until = self._clock() + self.lease_s
        async with self._database.transaction() as session:
            await session.execute(
                update(StoreFile).where(self._held(batch.leases)).values(lease_until=until)
            )
            await session.execute(
                update(IndexIntent).where(is_write_of(batch.leases)).values(until=until)
            )

    async def release(self, batch: IngestBatch, *, wait_s: float, blamed: bool = False) -> None:
        """Give back files that cannot be indexed now. `blamed` counts the attempt against them."""
        async with self._database.transaction() as session:
            await session.execute(
                update(StoreFile)
                .where(self._held(batch.leases))
                .values(
                    lease_owner=None,
                    lease_until=self._clock() + wait_s,
                    tries=StoreFile.tries - (0 if blamed else 1),
                )
            )
            await self.drop_vectors(session, batch, batch.leases)

    async def fail(self, batch: IngestBatch, lease: Lease, reason: FileUnreadable) -> None:
        """Record why a file cannot be indexed, and withdraw what it had published."""
        async with self._database.transaction() as session:
            await generations(session, batch.store_id, lock=True)
            if await session.scalar(select(StoreFile.id).where(self._held([lease]))) is not None:
                await withdraw(session, self._text, batch.store_id, [lease.file_id])
                failing = update(StoreFile).where(self._held([lease]))
                await session.execute(failing.values(**_failed(reason)))
            await self.drop_vectors(session, batch, [lease])

    async def held(self, session: AsyncSession, batch: IngestBatch) -> dict[int, StoreFile]:
        """Return the rows of files that are still leased and whose vectors were not given up.

        The keys are their ids. The session must hold the lock of the store.
        """
        locked = select(StoreFile).where(self._held(batch.leases)).order_by(StoreFile.id)
        rows = {row.id: row for row in await session.scalars(locked.with_for_update())}
        # The lock keeps recovery from giving up what is about to be published.
        noted = select(IndexIntent.subject).where(is_write_of(batch.leases)).with_for_update()
        counts = Counter(await session.scalars(noted))
        whole = [one for one in batch.leases if counts[one.version] == len(batch.targets)]
        return {one.store_file: rows[one.store_file] for one in whole if one.store_file in rows}

    async def drop_vectors(
        self, session: AsyncSession, batch: IngestBatch, leases: Sequence[Lease]
    ) -> None:
        """Have the vectors of files erased that will not be published."""
        about = is_write_of(leases) & (IndexIntent.tenant == batch.tenant)
        await session.execute(update(IndexIntent).where(about).values(kind="erase", until=0.0))

    async def _waiting(self, session: AsyncSession) -> list[_Store]:
        """Return the stores with files that no process is indexing."""
        due = select(StoreFile.store_id).where(
            StoreFile.status == _DUE, StoreFile.lease_until <= self._clock()
        )
        found = await session.execute(
            select(VectorStore.id, VectorStore.number, VectorStore.tenant)
            .where(VectorStore.id.in_(due))
            .order_by(VectorStore.number)
        )
        return [_Store(*row) for row in found]

    def _in_turn(self, waiting: Iterable[_Store]) -> list[_Store]:
        """Sort stores: longest-waiting tenant first, then its longest-waiting store."""
        waiting = list(waiting)
        known = {name for store in waiting for name in (store.id, store.tenant)}
        self._turns = {name: at for name, at in self._turns.items() if name in known}
        last = self._turns.get
        return sorted(waiting, key=lambda one: (last(one.tenant, 0.0), last(one.id, 0.0)))

    def _targets(self, found: Generations) -> list[WriteTarget]:
        """Return the generations to write to; empty if the searched one cannot be written."""
        live = [one for one in (found.active, found.building) if one is not None]
        targets = [
            WriteTarget(found.value(one), served)
            for one in live
            if (served := self._embedders.get(one.model)) and served.revision == one.revision
        ]
        searched = targets and found.active and targets[0].generation.id == found.active.id
        return targets if searched else []

    async def _lease(self, session: AsyncSession, store: _Store) -> list[Lease]:
        due = (
            (StoreFile.store_id == store.id)
            & (StoreFile.status == _DUE)
            & (StoreFile.lease_until <= self._clock())
        )
        await session.execute(
            update(StoreFile).where(due, StoreFile.tries >= MAX_TRIES).values(**_failed(_TOO_OFTEN))
        )
        found = await session.execute(
            select(StoreFile, File)
            .join(File, File.id == StoreFile.file_id)
            .where(due)
            .order_by(StoreFile.id)
            .limit(FILES)
            .with_for_update(skip_locked=True, of=StoreFile)
        )
        leases = []
        for row, file in _together([(row, file) for row, file in found]):
            row.lease_owner, row.lease_until = self._owner, self._clock() + self.lease_s
            row.tries += 1
            leases.append(_lease(row, file))
        return leases

    def _intend(
        self, session: AsyncSession, targets: Sequence[WriteTarget], leases: Sequence[Lease]
    ) -> None:
        until = self._clock() + self.lease_s
        session.add_all(
            IndexIntent(
                kind=_WRITE, tenant=target.generation.tenant, subject=lease.version,
                collection=target.generation.collection.name, until=until,
            )
            for target in targets
            for lease in leases
        )  # fmt: skip

    def _held(self, leases: Sequence[Lease]) -> ColumnElement[bool]:
        return and_(
            StoreFile.id.in_([lease.store_file for lease in leases]),
            StoreFile.lease_owner == self._owner,
            StoreFile.status == _DUE,
        )


def is_write_of(leases: Sequence[Lease]) -> ColumnElement[bool]:
    """Whether the current `index_intents` row is a write intent for these files."""
    versions = [lease.version for lease in leases]
    return and_(IndexIntent.kind == _WRITE, IndexIntent.subject.in_(versions))


_TOO_OFTEN = FileUnreadable(
    f"Indexing this file was started {MAX_TRIES} times and never finished.", code="server_error"
)


def _failed(reason: FileUnreadable) -> dict[str, Any]:
    return {
        "status": "failed",
        "error_code": reason.code,
        "error_message": reason.message,
        "lease_owner": None,
        "lease_until": 0.0,
    }


def _together(rows: Sequence[tuple[StoreFile, File]]) -> list[tuple[StoreFile, File]]:
    """Return the first files that fit into a batch; a suspicious file comes alone."""
    taken: list[tuple[StoreFile, File]] = []
    size = 0
    for row, file in rows:
        size += file.bytes
        suspicious = row.tries >= SUSPICIOUS_TRIES
        if taken and (size > BYTES or suspicious):
            break
        taken.append((row, file))
        if suspicious:
            break
    return taken


def _lease(row: StoreFile, file: File) -> Lease:
    return Lease(
        store_file=row.id,
        file_id=file.id,
        filename=file.filename,
        media_type=file.media_type,
        bytes=file.bytes,
        chunk_tokens=row.chunk_tokens,
        overlap_tokens=row.overlap_tokens,
        version=uuid.uuid4().hex,
    )
