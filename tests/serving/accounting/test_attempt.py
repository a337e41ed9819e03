"""Rows of the usage ledger: every column, and no text of a request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from models.engine import Usage
from serving.accounting.attempt import LOST, Attempt
from serving.storage.schema import UsageAttempt

BEGAN = datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=UTC)
ATTEMPT = Attempt(
    id="a1",
    request_id="req_1",
    tenant="acme",
    key_id="k1",
    model="org/m",
    endpoint="chat",
    started_at=BEGAN,
)


def row(**fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"outcome": "ok", "usage": Usage(3, 2, 1), "duration_s": 1.5} | fields
    parsed: dict[str, Any] = orjson.loads(ATTEMPT.row(**given))
    return parsed


@pytest.mark.parametrize("written", [ATTEMPT.lost(), orjson.dumps(row()).decode()])
def test_row_has_every_column_of_the_ledger(written: str) -> None:
    columns = {column.name for column in UsageAttempt.__table__.columns}
    assert orjson.loads(written).keys() == columns - {"settled"}


def test_row_says_what_was_used_and_how_long_it_took() -> None:
    told = row(ttft_s=0.25, cost_nanos=2**53 - 1, estimated=True, receipt="a.b.c")
    assert told == {
        "id": "a1",
        "request_id": "req_1",
        "tenant": "acme",
        "key_id": "k1",
        "model": "org/m",
        "endpoint": "chat",
        "route": "local",
        "started_at": "2026-02-28T23:59:59.999999+00:00",
        "day": "2026-02-28",
        "outcome": "ok",
        "ttft_ms": 250.0,
        "duration_ms": 1500.0,
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cached_tokens": 1,
        "estimated": True,
        "cost_nanos": 2**53 - 1,
        "receipt": "a.b.c",
    }


def test_time_to_first_token_is_unknown_where_there_was_none() -> None:
    assert row()["ttft_ms"] is None
    assert row(ttft_s=0.0)["ttft_ms"] == 0.0


def test_time_it_began_is_kept_exactly() -> None:
    assert datetime.fromisoformat(row()["started_at"]) == BEGAN


def test_lost_attempt_used_and_cost_nothing_that_is_known() -> None:
    told = orjson.loads(ATTEMPT.lost())
    assert told["outcome"] == LOST
    used = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nanos", "duration_ms")
    assert [told[name] for name in used] == [0] * len(used)
    assert told["id"] == row()["id"]
