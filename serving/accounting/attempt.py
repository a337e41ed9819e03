"""One attempt to answer a request, as a row of the usage ledger: counts and times, never text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from models.engine import Usage

LOST = "lost"
"""Outcome of an attempt whose gateway died. It cost nothing; what it used is not known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The facts of an attempt that are known when it begins."""

    id: str
    request_id: str
    tenant: str
    key_id: str
    model: str
    endpoint: str
    started_at: datetime
    route: str = "local"

    def lost(self) -> str:
        """The row should nothing more be heard of it."""
        return self.row(outcome=LOST, usage=Usage(0, 0), duration_s=0.0)

    def row(
        self,
        *,
        outcome: str,
        usage: Usage,
        duration_s: float,
        ttft_s: float | None = None,
        cost_nanos: int = 0,
        estimated: bool = False,
        receipt: str | None = None,
    ) -> str:
        """The row of an attempt that ended, as JSON. `receipt` was given with its answer."""
        row: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__} | {
            "day": self.started_at.date().isoformat(),
            "outcome": outcome,
            "ttft_ms": None if ttft_s is None else round(ttft_s * 1000, 3),
            "duration_ms": round(duration_s * 1000, 3),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "estimated": estimated,
            "cost_nanos": cost_nanos,
            "receipt": receipt,
        }
        return orjson.dumps(row).decode()
