"""Claims: which files are indexed by whom, under leases, so that a kill hands them to the next.

Tenants take turns, and so do the stores of one. Knows neither documents nor vectors.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from rag.database import Database
from rag.errors import FileUnreadable
from rag.index.embedder_versions import ServedEmbedder
from rag.index.protocols import Generation, TextIndex
from rag.ingestion.publication import withdraw
from rag.reembedding.generations import Generations, generations
from rag.schema import File, IndexIntent, StoreFile, VectorStore

LEASE_S = 60.0
"""After which a file whose indexer died goes to another."""

FILES = 64
"""Claimed together, so that an embedder gets whole batches of small files."""

BYTES = 8 * 1024 * 1024
"""Of files that are claimed together; a larger one is claimed alone."""

SUSPICIOUS_TRIES = 3
"""From here on a file is claimed alone, so that it takes no others down with it."""

MAX_TRIES = 10

_WRITE, _DUE = "write", "in_progress"


@dataclass(frozen=True, slots=True)
class Claim:
    """A file of a store that is ours to index; its chunks will be called `version`."""

    store_file: int
    file_id: str
    filename: str
    media_type: str
    bytes: int
    chunk_tokens: int
    overlap_tokens: int
    version: str


@dataclass(frozen=True, slots=True)
class Target:
    """A generation into which vectors are written, and who makes them."""

    generation: Generation
    served: ServedEmbedder


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files of one store that were claimed together; the first target is the one searched."""

    store_id: str
    store_number: int
    tenant: str
    claims: Sequence[Claim]
    targets: Sequence[Target]


@dataclass(frozen=True, slots=True)
class _Store:
    id: str
    number: int
    tenant: str


class Claims:
    """What this process has claimed.

    Args:
        database: where files wait.
        text: the full-text index, which a file that fails leaves.
        embedders: that are served, by model.
        clock: Unix seconds.
        lease_s: for which files are ours without being renewed.
    """

    def __init__(
        self,
        database: Database,
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

    async def take(self) -> Bundle | None:
        """The next files, with what follows from writing their vectors noted; None: none wait.

        A store whose embedder is not served is passed over; its files go on waiting.
        """
        async with self._database.session() as session:
            waiting = await self._waiting(session)
        for store in self._in_turn(waiting):
            async with self._database.transaction() as session:
                found = await generations(session, store.id, lock=True)
                targets = self._targets(found)
                claims = await self._claim(session, store) if targets else []
                self._intend(session, targets, claims)
            if claims:
                self._turns[store.tenant] = self._turns[store.id] = self._clock()
                return Bundle(store.id, store.number, store.tenant, claims, targets)
        return None

    async def renew(self, bundle: Bundle) -> None:
        """Keep files, and what was noted of their vectors, for another lease."""
        until = self._clock() + self.lease_s
        async with self._database.transaction() as session:
            await session.execute(
                update(StoreFile).where(self._ours(bundle.claims)).values(lease_until=until)
            )
            await session.execute(
                update(IndexIntent).where(written(bundle.claims)).values(until=until)
            )

    async def release(self, bundle: Bundle, *, wait_s: float, blamed: bool = False) -> None:
        """Give files back that cannot be indexed now. One that is `blamed` has used up a try."""
        async with self._database.transaction() as session:
            await session.execute(
                update(StoreFile)
                .where(self._ours(bundle.claims))
                .values(
                    lease_owner=None,
                    lease_until=self._clock() + wait_s,
                    tries=StoreFile.tries - (0 if blamed else 1),
                )
            )
            await self.drop_vectors(session, bundle, bundle.claims)

    async def fail(self, bundle: Bundle, claim: Claim, reason: FileUnreadable) -> None:
        """Say why a file cannot be indexed. Nothing of it is published any more."""
        async with self._database.transaction() as session:
            await generations(session, bundle.store_id, lock=True)
            if await session.scalar(select(StoreFile.id).where(self._ours([claim]))) is not None:
                await withdraw(session, self._text, bundle.store_id, [claim.file_id])
                failing = update(StoreFile).where(self._ours([claim]))
                await session.execute(failing.values(**_failed(reason)))
            await self.drop_vectors(session, bundle, [claim])

    async def ours(self, session: AsyncSession, bundle: Bundle) -> dict[int, StoreFile]:
        """Rows of the files that are still ours, with vectors that nobody took for left behind.

        By their ids. The session has locked the store, so that nothing of it changes meanwhile.
        """
        locked = select(StoreFile).where(self._ours(bundle.claims)).order_by(StoreFile.id)
        rows = {row.id: row for row in await session.scalars(locked.with_for_update())}
        # Locked, so that recovery does not give up, until the end, what is about to be published.
        noted = select(IndexIntent.subject).where(written(bundle.claims)).with_for_update()
        counts = Counter(await session.scalars(noted))
        whole = [one for one in bundle.claims if counts[one.version] == len(bundle.targets)]
        return {one.store_file: rows[one.store_file] for one in whole if one.store_file in rows}

    async def drop_vectors(
        self, session: AsyncSession, bundle: Bundle, claims: Sequence[Claim]
    ) -> None:
        """Have what was written for files erased: it will not be published."""
        about = written(claims) & (IndexIntent.tenant == bundle.tenant)
        await session.execute(update(IndexIntent).where(about).values(kind="erase", until=0.0))

    async def _waiting(self, session: AsyncSession) -> list[_Store]:
        """Stores that have files which nobody indexes."""
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
        """Tenants that waited longest first, and of each the store that did."""
        waiting = list(waiting)
        known = {name for store in waiting for name in (store.id, store.tenant)}
        self._turns = {name: at for name, at in self._turns.items() if name in known}
        last = self._turns.get
        return sorted(waiting, key=lambda one: (last(one.tenant, 0.0), last(one.id, 0.0)))

    def _targets(self, found: Generations) -> list[Target]:
        """Where vectors go: nowhere unless those that are searched can be made."""
        live = [one for one in (found.active, found.building) if one is not None]
        targets = [
            Target(found.value(one), served)
            for one in live
            if (served := self._embedders.get(one.model)) and served.revision == one.revision
        ]
        searched = targets and found.active and targets[0].generation.id == found.active.id
        return targets if searched else []

    async def _claim(self, session: AsyncSession, store: _Store) -> list[Claim]:
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
        claims = []
        for row, file in _together([(row, file) for row, file in found]):
            row.lease_owner, row.lease_until = self._owner, self._clock() + self.lease_s
            row.tries += 1
            claims.append(_claim(row, file))
        return claims

    def _intend(
        self, session: AsyncSession, targets: Sequence[Target], claims: Sequence[Claim]
    ) -> None:
        until = self._clock() + self.lease_s
        session.add_all(
            IndexIntent(
                kind=_WRITE, tenant=target.generation.tenant, subject=claim.version,
                collection=target.generation.collection.name, until=until,
            )
            for target in targets
            for claim in claims
        )  # fmt: skip

    def _ours(self, claims: Sequence[Claim]) -> ColumnElement[bool]:
        return and_(
            StoreFile.id.in_([claim.store_file for claim in claims]),
            StoreFile.lease_owner == self._owner,
            StoreFile.status == _DUE,
        )


def written(claims: Sequence[Claim]) -> ColumnElement[bool]:
    """Whether the `index_intents` row at hand is about vectors of these files."""
    versions = [claim.version for claim in claims]
    return and_(IndexIntent.kind == _WRITE, IndexIntent.subject.in_(versions))


_TOO_OFTEN = FileUnreadable(
    f"Indexing this file was begun {MAX_TRIES} times and never came to an end.", code="server_error"
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
    """The first files that are small enough together; a suspicious one comes alone."""
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


def _claim(row: StoreFile, file: File) -> Claim:
    return Claim(
        store_file=row.id,
        file_id=file.id,
        filename=file.filename,
        media_type=file.media_type,
        bytes=file.bytes,
        chunk_tokens=row.chunk_tokens,
        overlap_tokens=row.overlap_tokens,
        version=uuid.uuid4().hex,
    )
