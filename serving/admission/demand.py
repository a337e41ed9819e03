"""What a request will use at most, what it did use, and what the limits say to it. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from serving.domain.quota import Quota

RateMeasure = Literal["requests_per_minute", "tokens_per_minute", "concurrent_requests"]


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Rate limits of a subject; None means that there is no limit."""

    subject: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    @property
    def bounds(self) -> tuple[int | None, int | None, int | None]:
        """The three limits, in their order in the script."""
        return self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests

    def uncounted(self) -> RateLimits:
        """The same limits for a request that is already counted."""
        return replace(self, requests_per_minute=None)


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget by its name in Valkey, in billionths of the currency, and the life of its sum."""

    name: str
    limit_nanos: int
    keep_s: int


@dataclass(frozen=True, slots=True)
class Demand:
    """The most that a request will use.

    `sums` are names of all budgets that its cost belongs to, set or not; `facts` is its ledger row
    should this process die.
    """

    id: str
    tokens: int
    cost_nanos: int
    limits: Sequence[RateLimits]
    budgets: Sequence[Budget]
    sums: Sequence[str]
    facts: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """The actual use of a request. If it never ran, nothing is `kept` of it."""

    tokens: int
    cost_nanos: int
    row: str | None
    kept: bool = True


NEVER_RAN = Settlement(tokens=0, cost_nanos=0, row=None, kept=False)
"""Settlement of a request that was let in and then turned away by something else."""


@dataclass(frozen=True, slots=True)
class LimitReached:
    """A limit is reached. `subject` is the position in the demand's limits."""

    measure: RateMeasure
    subject: int
    wait_s: float
    quota: Quota


@dataclass(frozen=True, slots=True)
class OverBudget:
    """A budget has not enough left. `budget` is the position in the demand's budgets.

    `in_flight`: only what running requests hold is in the way, and they may give it back.
    """

    budget: int
    in_flight: bool


@dataclass(frozen=True, slots=True)
class Uninitialised:
    """Valkey does not know what was spent of a budget: the ledger does.

    `version` counts settlements since this was first said. A sum from the ledger is good as long as
    it stays the same.
    """

    budget: int
    version: int


Verdict = Quota | LimitReached | OverBudget | Uninitialised
