"""The loads of the overload study: arrivals of several tenants, drawn in advance.

Knows nothing of servers, connections or answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.deployment.step import Limits

NOISY = "noisy"
"""The tenant that sends too much. Steps with a single tenant use it too."""

Phase = Literal["A", "B"]
"""In A, every tenant sends half of its share. In B, the noisy one sends many times its share."""

OVERLOAD = 1.0
"""Share of the saturation rate from which a queue may form."""


@dataclass(frozen=True, slots=True)
class OverloadPlan:
    """The parameters of the study.

    Attributes:
        slots: Slots of the engine.
        queued: Places in the queue before the engine.
        saturation_s: Seconds of the closed loop that measures the saturation rate.
        shares: Rates of the open-loop steps, as shares of the saturation rate.
        limits: Latency limits for goodput.
        quiet: Names of the other tenants.
        phases: Phases in order; each two form a pair.
        quiet_part: Rate of a quiet tenant, as a part of its share of the saturation rate.
        noisy_times: Rate of the noisy tenant in B, as a multiple of its share.
        lead_s: Seconds before the counted window without a queue.
        overload_lead_s: Seconds before the counted window with a queue. After ten seconds, a
            standing queue sheds more and admits no request until it is short, which takes two or
            three seconds.
        window_s: Seconds for which arrivals count.
        lengths: Shortest and longest answer in tokens. With one length, slots would end together.
        connections: Maximum number of open connections.
        deadline_s: Deadline of one request in seconds.
        seed: Seed of arrivals, prompts and lengths.
    """

    slots: int = 32
    queued: int = 64
    saturation_s: float = 20.0
    shares: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
    limits: Limits = field(default_factory=lambda: Limits(ttft_s=2.0))
    quiet: tuple[str, ...] = ("quiet-1", "quiet-2", "quiet-3", "quiet-4")
    phases: tuple[Phase, ...] = ("A", "B", "B", "A", "A", "B", "B", "A")
    quiet_part: float = 0.5
    noisy_times: float = 50.0
    lead_s: float = 5.0
    overload_lead_s: float = 16.0
    window_s: float = 30.0
    lengths: tuple[int, int] = (16, 48)
    connections: int = 400
    deadline_s: float = 60.0
    seed: int = 0

    @property
    def tenants(self) -> tuple[str, ...]:
        """Names of all tenants."""
        return (*self.quiet, NOISY)

    @property
    def sends_s(self) -> float:
        """Seconds for which the study sends requests."""
        leads_s = [self.lead_of(share) for share in self.shares]
        leads_s += [self.overload_lead_s] * len(self.phases)
        return self.saturation_s + sum(leads_s) + self.window_s * len(leads_s)

    def lead_of(self, share: float) -> float:
        """Return the lead-in of a step in seconds."""
        return self.lead_s if share < OVERLOAD else self.overload_lead_s

    def rates(self, phase: Phase, saturation_per_s: float) -> dict[str, float]:
        """Return the requests per second of each tenant in a phase."""
        share_per_s = saturation_per_s / len(self.tenants)
        rates = dict.fromkeys(self.tenants, share_per_s * self.quiet_part)
        if phase == "B":
            rates[NOISY] = share_per_s * self.noisy_times
        return rates

    def pairs(self) -> Sequence[tuple[Phase, Phase]]:
        """Return the phases in pairs.

        Raises:
            ValueError: A phase has no partner, or a partner of the same kind.
        """
        pairs = list(zip(self.phases[::2], self.phases[1::2], strict=True))
        if any(first == second for first, second in pairs):
            raise ValueError(f"a pair is an A and a B: {''.join(self.phases)}")
        return pairs


QUICK = OverloadPlan(
    saturation_s=8.0,
    shares=(0.9, 2.0),
    phases=("A", "B"),
    lead_s=3.0,
    window_s=10.0,
)
"""A run that shows that the study works; its figures are too few to be published."""


@dataclass(frozen=True, slots=True)
class Due:
    """A planned request: its time, tenant and answer length.

    `at_s` counts from the start of the load.
    """

    at_s: float
    tenant: str
    tokens: int


def arrivals(
    rates: Mapping[str, float],
    *,
    lead_s: float,
    window_s: float,
    lengths: tuple[int, int],
    seed: str,
) -> list[Due]:
    """Draw Poisson arrivals of each tenant, conditioned on their number; sorted by time.

    In the lead-in and in the window, each tenant has exactly as many requests as its rate implies,
    at
    independent uniform times: a Poisson process with a known count. So steps do not differ by
    chance
    in the number of requests. A tenant's requests depend only on its rate and the seed, so two
    loads
    with one seed have the same requests of each tenant whose rate is the same.

    Args:
        rates: Requests per second of each tenant.
        lead_s: Length of the lead-in in seconds.
        window_s: Length of the window in seconds.
        lengths: Shortest and longest answer; lengths between are equally likely.
        seed: Seed of all random draws.
    """
    parts = ((0.0, lead_s), (lead_s, window_s))
    found = [
        due
        for tenant, rate_per_s in rates.items()
        for due in _of_tenant(tenant, rate_per_s, parts, lengths, seed)
    ]
    return sorted(found, key=lambda due: due.at_s)


def _of_tenant(
    tenant: str,
    rate_per_s: float,
    parts: Sequence[tuple[float, float]],
    lengths: tuple[int, int],
    seed: str,
) -> Iterator[Due]:
    # Arrival times and lengths need no cryptographic randomness.
    source = random.Random(f"{seed} {tenant}")  # noqa: S311
    for begin_s, duration_s in parts:
        for _ in range(round(rate_per_s * duration_s)):
            at_s = begin_s + duration_s * source.random()
            yield Due(at_s, tenant, source.randint(*lengths))
