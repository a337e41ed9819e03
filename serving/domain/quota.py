"""What is left of limits and budgets, as reported in answers, refusals and reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Headroom:
    """A limit: its size, what is left of it, and the seconds until it is whole again."""

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
    """Spending of a budget, in billionths of the currency; running requests hold `reserved`."""

    spent_nanos: int
    reserved_nanos: int
