"""The ledger of a database, read: what left for a request or lately, and all of it to verify.

Needs no key. What left and how it ended are two entries; together they are a crossing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from serving.egress.ledger.chain import Entry
from serving.egress.ledger.checkpoints import Checkpoint
from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.signing import PublicKeys
from serving.egress.ledger.verification import Report, Verification
from serving.storage.database import Database
from serving.storage.schema import EgressCheckpoint, EgressEntry

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Crossing:
    """An attempt that left. Without an arrival it still runs, or its gateway died."""

    departure: Entry
    arrival: Entry | None

    @property
    def at(self) -> datetime:
        """The time of its departure."""
        return datetime.fromisoformat(self.departure.at)

    def as_json(self) -> dict[str, Any]:
        """Everything that is known of it; `arrival` is null when nothing is known of its end."""
        entry, end = self.departure, self.arrival
        return {
            "sequence": entry.sequence,
            "hash": entry.hash,
            "at": entry.at,
            "request_id": entry.request_id,
            "attempt_id": entry.attempt_id,
            "tenant": entry.tenant,
            **entry.told,
            "arrival": end and {"sequence": end.sequence, "at": end.at, **end.told},
        }


async def crossings_of(database: Database, request_id: str, tenant: str) -> list[Crossing]:
    """Return what left for a request of a tenant, in order.

    Raises:
        DatabaseUnavailable: it cannot be told now.
    """
    query = select(EgressEntry).where(
        EgressEntry.request_id == request_id, EgressEntry.tenant == tenant
    )
    async with database.session() as session:
        rows = await session.scalars(query.order_by(EgressEntry.sequence))
        return _crossings(entry_of(row) for row in rows)


async def latest_crossings(
    database: Database, *, limit: int, request_id: str | None = None
) -> list[Crossing]:
    """Return the last departures of all tenants; the newest comes last. Raises as above."""
    query = select(EgressEntry).where(EgressEntry.kind == "departure")
    if request_id is not None:
        query = query.where(EgressEntry.request_id == request_id)
    async with database.session() as session:
        newest = query.order_by(EgressEntry.sequence.desc()).limit(limit)
        departures = [entry_of(row) for row in await session.scalars(newest)]
        ended = EgressEntry.departure.in_([entry.sequence for entry in departures])
        rows = await session.scalars(select(EgressEntry).where(ended))
        return _crossings([*reversed(departures), *map(entry_of, rows)])


async def all_entries(database: Database) -> AsyncGenerator[Entry, None]:
    """The whole chain in its order, some at a time. Raises as above."""
    last: int | None = 0
    while last is not None:
        query = select(EgressEntry).where(EgressEntry.sequence > last)
        async with database.session() as session:
            rows = await session.scalars(query.order_by(EgressEntry.sequence).limit(_PAGE))
            page = [entry_of(row) for row in rows]
        for entry in page:
            yield entry
        last = page[-1].sequence if len(page) == _PAGE else None


async def all_checkpoints(database: Database) -> list[Checkpoint]:
    """Every checkpoint in its order. Raises as above."""
    async with database.session() as session:
        query = select(EgressCheckpoint).order_by(EgressCheckpoint.sequence)
        rows = await session.scalars(query)
        return [_checkpoint_of(row) for row in rows]


async def last_checkpoint(database: Database) -> Checkpoint | None:
    """The newest checkpoint; None if nothing was signed yet. Raises as above."""
    query = select(EgressCheckpoint).order_by(EgressCheckpoint.sequence.desc())
    async with database.session() as session:
        row = await session.scalar(query.limit(1))
        return None if row is None else _checkpoint_of(row)


async def leaves_to(database: Database, sequence: int) -> list[bytes]:
    """The leaves of the tree over the first so many entries. Raises as above.

    Raises:
        LedgerFileInvalid: An entry is missing, or was changed.
    """
    leaves: list[bytes] = []
    async for entry in all_entries(database):
        if entry.sequence != len(leaves) + 1 or not entry.is_intact():
            raise LedgerFileInvalid(f"entry {len(leaves) + 1} is missing or changed")
        leaves.append(bytes.fromhex(entry.hash))
        if len(leaves) == sequence:
            break
    return leaves


async def verify_database(
    database: Database, keys: PublicKeys, *, anchors: Iterable[Checkpoint] = ()
) -> Report:
    """Verify the ledger as it is now; gateways may go on writing. Raises as above."""
    verification = Verification(keys, await all_checkpoints(database), anchors)
    async for entry in all_entries(database):
        if not verification.take(entry):
            break
    return verification.report()


def entry_of(row: EgressEntry) -> Entry:
    """The entry that a row holds."""
    return Entry(**{name: getattr(row, name) for name in Entry.__dataclass_fields__})


def _checkpoint_of(row: EgressCheckpoint) -> Checkpoint:
    return Checkpoint(**{name: getattr(row, name) for name in Checkpoint.__dataclass_fields__})


def _crossings(entries: Iterable[Entry]) -> list[Crossing]:
    found = list(entries)
    ends = {entry.departure: entry for entry in found if entry.kind == "arrival"}
    return [
        Crossing(entry, ends.get(entry.sequence)) for entry in found if entry.kind == "departure"
    ]
