"""What the study of overload sends: loads as arrivals of several tenants, drawn before they start.

Knows nothing of servers, connections or answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.deployment.step import Limits

NOISY = "noisy"
"""The tenant that asks for too much; it is alone where only one is needed."""

Phase = Literal["A", "B"]
"""A: every tenant asks for half of its share. B: the noisy one asks for many times its share."""

OVERLOAD = 1.0
"""Share of the saturation rate from which a queue may stand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent.

    Attributes:
        slots: Places of the engine.
        queued: Places of the queue before it.
        saturation_s: How long the closed loop is counted that finds the saturation rate.
        shares: Of that rate, a step of one tenant's open loop each.
        limits: Of goodput.
        quiet: The other tenants.
        phases: Each two are a pair; a letter is a phase.
        quiet_part: What a quiet tenant asks for, of its share of the saturation rate.
        noisy_times: How many times its share the noisy one asks for in B.
        lead_s: Before what counts, where no queue stands.
        overload_lead_s: The same where one does: when it has stood for ten seconds it sheds more,
            and lets nobody in until it is short, which takes two or three.
        window_s: For how long arrivals count.
        lengths: Shortest and longest answer, tokens. One length would have slots end together.
        connections: The most that the client has open.
        deadline_s: Of one request.
        seed: Of arrivals, prompts and lengths.
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
        """All that send."""
        return (*self.quiet, NOISY)

    @property
    def sends_s(self) -> float:
        """For how long the whole study sends."""
        leads_s = [self.lead_of(share) for share in self.shares]
        leads_s += [self.overload_lead_s] * len(self.phases)
        return self.saturation_s + sum(leads_s) + self.window_s * len(leads_s)

    def lead_of(self, share: float) -> float:
        """Lead-in of a step, s."""
        return self.lead_s if share < OVERLOAD else self.overload_lead_s

    def rates(self, phase: Phase, saturation_per_s: float) -> dict[str, float]:
        """Requests a second of each tenant in a phase."""
        share_per_s = saturation_per_s / len(self.tenants)
        rates = dict.fromkeys(self.tenants, share_per_s * self.quiet_part)
        if phase == "B":
            rates[NOISY] = share_per_s * self.noisy_times
        return rates

    def pairs(self) -> Sequence[tuple[Phase, Phase]]:
        """The phases two by two.

        Raises:
            ValueError: If one of them is alone, or has another of its own kind beside it.
        """
        pairs = list(zip(self.phases[::2], self.phases[1::2], strict=True))
        if any(first == second for first, second in pairs):
            raise ValueError(f"a pair is an A and a B: {''.join(self.phases)}")
        return pairs


QUICK = Plan(
    saturation_s=8.0,
    shares=(0.9, 2.0),
    phases=("A", "B"),
    lead_s=3.0,
    window_s=10.0,
)
"""Shows that the study works; its figures are too few to be published."""


@dataclass(frozen=True, slots=True)
class Due:
    """A request before it is sent: when, on whose account, and how long its answer is.

    `at_s` counts from the beginning of the load.
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
    """Poisson arrivals of each tenant, given how many there are, in order.

    In lead-in and window apart each tenant has just as many requests as its rate says, at times
    that are uniform and independent: a Poisson process of which the count is known. A step is then
    not told from another by luck in how many came. What a tenant sends depends on its own rate and
    on the seed only, so that two loads of one seed differ in no request of a tenant whose rate is
    the same in both.

    Args:
        rates: Requests a second of each tenant.
        lead_s: How long the lead-in is.
        window_s: How long the rest is.
        lengths: Shortest and longest answer; each length between is as likely.
        seed: Of everything drawn.
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
    # Arrival times and lengths, not secrets.
    source = random.Random(f"{seed} {tenant}")  # noqa: S311
    for begin_s, duration_s in parts:
        for _ in range(round(rate_per_s * duration_s)):
            at_s = begin_s + duration_s * source.random()
            yield Due(at_s, tenant, source.randint(*lengths))
