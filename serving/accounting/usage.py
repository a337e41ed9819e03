"""Reports of usage: their questions, and their rows.

Knows nothing of where it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from serving.domain.quota import Spent

Dimension = Literal["day", "key", "tenant", "model"]
"""What usage is grouped by. A day is one of UTC; a key is named by its id."""

DIMENSIONS: tuple[Dimension, ...] = ("day", "key", "tenant", "model")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one group of attempts.

    `group` has a value for each dimension that was asked for. `cost_nanos` is in billionths of
    the currency, `duration_ms` the sum over all attempts. Cached tokens are prompt tokens too.
    """

    group: Mapping[Dimension, str]
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nanos: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt to answer a request, as shown to its caller. Times in ms.

    `receipt` is the one that was given with its answer, if it was what answered.
    """

    route: str
    model: str
    endpoint: str
    outcome: str
    started_at: datetime
    ttft_ms: float | None
    duration_ms: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_nanos: int
    receipt: str | None


class AttemptHistory(Protocol):
    """Knows what was tried for a request."""

    async def attempts_of(self, tenant: str, request_id: str) -> Sequence[AttemptRecord]:
        """Attempts of a tenant's request that have ended, the first one first.

        Raises:
            DatabaseUnavailable: it cannot be told now.
        """
        ...


class SpendingLookup(Protocol):
    """Knows how much of each budget is spent."""

    async def spending(self, subject: str, windows: Sequence[str]) -> Mapping[str, Spent]:
        """Return what a subject has spent in the current window of each kind.

        Args:
            subject: `key:<id>` or `tenant:<name>`.
            windows: `day`, `month` or `total`.

        Returns:
            An entry for each of `windows`.

        Raises:
            DatabaseUnavailable, ValkeyUnavailable: it cannot be told now.
        """
        ...


class UsageReport(Protocol):
    """Sums up what was used."""

    async def report(
        self,
        *,
        group_by: Sequence[Dimension],
        since: date | None,
        until: date | None,
        tenant: str | None,
        key_id: str | None,
        model: str | None,
    ) -> Sequence[UsageRow]:
        """Sums for each group, in the order of `group_by`; one row where that is empty.

        Args:
            group_by: dimensions, none of them twice.
            since: the first day.
            until: the last day, itself included.
            tenant: only of this tenant.
            key_id: only of this key.
            model: only of this model.

        Raises:
            DatabaseUnavailable: it cannot be told now.
        """
        ...
