"""Ledgers for tests: generated facts, chains in memory, and both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, select

from serving.egress.ledger.chain import ORIGIN, Draft, Entry
from serving.egress.ledger.chain_store import CheckpointRules
from serving.egress.ledger.checkpoints import Checkpoint
from serving.egress.ledger.ledger import DepartureFacts
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import ORIGIN_NAME
from serving.egress.ledger.reading import entry_of
from serving.egress.ledger.signing import Signer
from serving.storage.database import Database
from serving.storage.schema import EgressCheckpoint, EgressEntry
from tests.serving.storage.databases import migrated_url, postgres_url

__all__ = ["database", "migrated_url", "postgres_url"]

SECRET = b"made-up-server-secret-0123456789"
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER_SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = "2026-03-01T12:00:00.000000+00:00"


def facts(**fields: Any) -> DepartureFacts:
    told: dict[str, Any] = {
        "request_id": "req_1",
        "attempt_id": "a1",
        "tenant": "acme",
        "key_id": "k1",
        "provider": "somebody",
        "host": "api.somebody.example",
        "path": "/v1/chat/completions",
        "model": "large",
        "privacy": "scrubbed",
        "policy": "p1",
        "entities": {"PERSON": 2, "EMAIL": 1},
    }
    return DepartureFacts(**told | fields)


def rules(**fields: Any) -> CheckpointRules:
    return replace(CheckpointRules(SIGNER, every_s=3600.0), **fields)


def draft(**fields: Any) -> Draft:
    told: dict[str, Any] = {
        "kind": "departure",
        "at": AT,
        "request_id": "req_1",
        "attempt_id": "a1",
        "tenant": "acme",
        "facts": '{"body_bytes":3}',
    }
    return Draft(**told | fields)


def chain(count: int) -> list[Entry]:
    """Build a valid chain with that many entries."""
    entries: list[Entry] = []
    head = ORIGIN
    for number in range(1, count + 1):
        entries.append(draft(attempt_id=f"a{number}").following(head))
        head = entries[-1].head
    return entries


def signed(
    entry: Entry, signer: Signer = SIGNER, *, before: Sequence[Entry] | None = None
) -> Checkpoint:
    """The checkpoint of a chain that ends with this entry, after those of `chain` or others."""
    earlier = chain(entry.sequence - 1) if before is None else before
    leaves = [bytes.fromhex(one.hash) for one in [*earlier, entry]]
    tree = Frontier().with_leaves(leaves)
    return Checkpoint.sign(entry.head, tree, AT, signer=signer, origin=ORIGIN_NAME)


def signed_before(entry: Entry, signer: Signer = SIGNER) -> Checkpoint:
    """The same as version 1 signed it."""
    draft = Checkpoint(*entry.head, AT, signer.key_id, "")
    lines = ("ringfence egress checkpoint 1", *entry.head, AT, signer.key_id)
    return replace(draft, signature=signer.sign("\n".join(map(str, lines)).encode()).hex())


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """A database with an empty ledger."""
    opened = Database.open(migrated_url)
    async with opened.transaction() as session:
        await session.execute(delete(EgressEntry))
        await session.execute(delete(EgressCheckpoint))
    yield opened
    await opened.close()


async def entries_in(database: Database) -> list[Entry]:
    async with database.session() as session:
        rows = await session.scalars(select(EgressEntry).order_by(EgressEntry.sequence))
        return [entry_of(row) for row in rows]


async def signed_in(database: Database) -> list[int]:
    """Return the entries that have a checkpoint."""
    async with database.session() as session:
        query = select(EgressCheckpoint.sequence).order_by(EgressCheckpoint.sequence)
        return list(await session.scalars(query))


async def kinds_become(database: Database, *expected: str) -> bool:
    """Whether the ledger comes to contain entries of these kinds, and outcomes of arrivals."""
    found: list[str] = []
    for _ in range(500):
        entries = await entries_in(database)
        found = [entry.told.get("outcome", entry.kind) for entry in entries]
        if found == list(expected):
            return True
        await asyncio.sleep(0.01)
    raise AssertionError(found)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)
