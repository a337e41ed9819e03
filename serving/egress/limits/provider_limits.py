"""Providers' limits, what they report to be left, and the reasons why no attempt begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self, get_args

from serving.config.overflow import ProviderSettings

Reason = Literal[
    "resting",
    "open",
    "probing",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "requests_left",
    "tokens_left",
    "unshared",
]
"""Why no attempt begins. `resting`: the provider asked for it, or refused. `open`, `probing`: its
breaker lets nothing, or one attempt through. Then the configured limits, and what the provider told
is left. `unshared`: nobody knows what other gateways use."""

REASONS: frozenset[str] = frozenset(get_args(Reason))

RESET_S = 60.0
"""Assumed time until a limit resets if the provider does not tell: limits are per minute."""


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """Limits of a provider; None if unknown."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    @classmethod
    def of(cls, settings: ProviderSettings) -> Self:
        """Read the configured limits."""
        return cls(
            settings.requests_per_minute, settings.tokens_per_minute, settings.concurrent_requests
        )

    @property
    def bounds(self) -> tuple[int | None, int | None, int | None]:
        """The three limits, in their order in the script."""
        return self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be counted."""
        return self.bounds == (None, None, None)


@dataclass(frozen=True, slots=True)
class Denied:
    """No attempt begins now; it may at the earliest in `retry_after_s`."""

    reason: Reason
    retry_after_s: float


class Left(Protocol):
    """The rest of our limits as a provider reports it; None if it does not."""

    @property
    def requests(self) -> int | None:
        """Requests that may still be sent."""
        ...

    @property
    def requests_reset_s(self) -> float | None:
        """Seconds until there are as many as there can be."""
        ...

    @property
    def tokens(self) -> int | None:
        """Tokens that may still be sent."""
        ...

    @property
    def tokens_reset_s(self) -> float | None:
        """Seconds until the tokens reset."""
        ...


@dataclass(frozen=True, slots=True)
class Reservation:
    """The use of an attempt. `made_ms` is Valkey's time of it; 0 if Valkey does not know it."""

    id: str
    provider: str
    model: str
    tokens: int
    made_ms: int = 0

    @property
    def target(self) -> str:
        """The name of a breaker: a model of a provider."""
        return f"{self.provider}|{self.model}"
