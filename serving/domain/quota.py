"""What is left of limits and budgets, as answers, refusals and reports tell it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Headroom:
    """Of a limit: how much it is, what is left, and the seconds until all of it is."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Quota:
    """The tightest headroom in requests and in tokens; None without such a limit."""

    requests: Headroom | None = None
    tokens: Headroom | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one budget so far, in billionths of the currency; `reserved` by requests that run."""

    spent_nanos: int
    reserved_nanos: int
