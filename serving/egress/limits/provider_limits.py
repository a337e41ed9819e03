"""What providers let us use, what they tell is left of it, and why an attempt does not begin."""

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
    """What a provider lets us use; None: not known."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    @classmethod
    def of(cls, settings: ProviderSettings) -> Self:
        """Those that are configured."""
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
    """What a provider tells about our limits; None: not told."""

    @property
    def requests(self) -> int | None:
        """That may still be sent."""
        ...

    @property
    def requests_reset_s(self) -> float | None:
        """Seconds until there are as many as there can be."""
        ...

    @property
    def tokens(self) -> int | None:
        """The same for tokens."""
        ...

    @property
    def tokens_reset_s(self) -> float | None:
        """As above."""
        ...


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an attempt takes. `made_ms`: when, by Valkey's clock; 0: it has not heard of it."""

    id: str
    provider: str
    model: str
    tokens: int
    made_ms: int = 0

    @property
    def target(self) -> str:
        """What a breaker belongs to: a model of a provider."""
        return f"{self.provider}|{self.model}"
