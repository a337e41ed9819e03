"""Receipts of requests that have ended: of what answered them, not of what was looked up first."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.accounting.usage import AttemptRecord
from serving.answering.explanations import Explanation
from serving.answering.notary import LedgerNotary
from serving.egress.appender import CheckpointRules
from serving.egress.ledger import EgressLedger
from serving.egress.receipts import Receipts, verify
from serving.egress.signing import Signer
from serving.errors import NotFound
from serving.storage.database import Database
from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["database", "database_url", "empty_url", "postgres_url"]


def attempt(endpoint: str, model: str, outcome: str = "ok") -> AttemptRecord:
    return AttemptRecord(
        route="local", model=model, endpoint=endpoint, outcome=outcome,
        started_at=datetime.now(UTC), ttft_ms=None, duration_ms=1.0, prompt_tokens=1,
        completion_tokens=1, cached_tokens=0, cost_nanos=0,
    )  # fmt: skip


SEARCH = attempt("search", "embedder")


async def receipt_of(database: Database, tmp_path: Path, *attempts: AttemptRecord) -> str:
    signer = Signer.load_or_create(tmp_path / "key.pem")
    ledger = EgressLedger(database, b"secret", CheckpointRules(signer))
    notary = LedgerNotary(Receipts(signer), ledger)
    token = await notary.receipt_of("acme", "r1", Explanation(None, attempts))
    return verify(token, signer.public_keys).model


async def test_receipt_names_the_model_that_answered(database: Database, tmp_path: Path) -> None:
    assert await receipt_of(database, tmp_path, SEARCH, attempt("chat", "chat")) == "chat"


async def test_answer_that_failed_has_no_receipt_for_its_search(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(NotFound):
        await receipt_of(database, tmp_path, SEARCH, attempt("chat", "chat", "engine_failed"))


async def test_search_by_itself_has_a_receipt(database: Database, tmp_path: Path) -> None:
    assert await receipt_of(database, tmp_path, SEARCH) == "embedder"
