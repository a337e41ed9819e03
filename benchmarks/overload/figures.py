"""Figures of an overload study: goodput, refusals, and fairness over pairs of phases.

Pure functions of answers. Only requests that were due after the lead-in count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.deployment.step import Limits
from benchmarks.overload.client import Answer, outcomes
from benchmarks.overload.plan import NOISY, Phase
from benchmarks.reporting.statistics import Ratio, percentile, ratio
from benchmarks.running.machine import Conditions

GOODPUT_GOAL = 0.9
FAIRNESS_GOAL = 1.3
REFUSAL_GOAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Times:
    """Distribution of a time in seconds."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Times | None:
        """Summarise values; None without any."""
        if not values:
            return None
        p50, p95, p99 = (percentile(values, percent) for percent in (50, 95, 99))
        return cls(count=len(values), p50=p50, p95=p95, p99=p99)


@dataclass(frozen=True, slots=True)
class Around:
    """Conditions under which a load ran.

    Attributes:
        client_cpu_share: Share of one core that the client used. Near 1, it measures itself.
        held_s: Delays between due times and sending.
        load_average: Load average of the last minute, at the end.
        conditions: Other load on the machine.
    """

    client_cpu_share: float
    held_s: Times | None
    load_average: float
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Refusals:
    """The refused requests.

    Attributes:
        outcomes: Number of each status and code.
        told_s: Times from a request's due time to the end of its refusal.
        in_time: Number of refusals within `REFUSAL_GOAL_S`.
        without_retry_after: Number of refusals without `retry-after`.
    """

    outcomes: Mapping[str, int]
    told_s: Times | None
    in_time: int
    without_retry_after: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Refusals:
        """Collect the refusals among answers."""
        refused = [answer for answer in answers if answer.refused]
        times_s = [answer.record.e2e_s for answer in refused]
        return cls(
            outcomes=outcomes(refused),
            told_s=Times.of(times_s),
            in_time=sum(time_s < REFUSAL_GOAL_S for time_s in times_s),
            without_retry_after=sum(answer.retry_after_s is None for answer in refused),
        )

    @property
    def count(self) -> int:
        """Number of refusals."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Group:
    """The outcomes of some tenants' requests.

    Attributes:
        sent: Number of requests.
        served_per_s: Complete answers per second of the window.
        ttft_s: TTFT of the served requests.
        failures: Number of each failure, which is neither served nor refused.
    """

    sent: int
    served: int
    served_per_s: float
    ttft_s: Times | None
    refusals: Refusals
    failures: Mapping[str, int]

    @classmethod
    def of(cls, answers: Sequence[Answer], *, window_s: float) -> Group:
        """Summarise answers."""
        served = [answer for answer in answers if answer.served]
        return cls(
            sent=len(answers),
            served=len(served),
            served_per_s=len(served) / window_s,
            ttft_s=Times.of([a.record.ttft_s for a in served if a.record.ttft_s is not None]),
            refusals=Refusals.of(answers),
            failures=outcomes(answer for answer in answers if answer.failed),
        )


def counted(answers: Sequence[Answer], *, lead_s: float) -> list[Answer]:
    """Return the answers to requests that were due after the lead-in."""
    return [answer for answer in answers if answer.at_s >= lead_s]


@dataclass(frozen=True, slots=True)
class GoodputStep:
    """One rate of a tenant's open loop.

    Attributes:
        share: The rate as a share of the saturation rate.
        good: Number of served requests within every limit.
    """

    share: float
    rate_per_s: float
    lead_s: float
    group: Group
    good: int
    goodput_per_s: float
    around: Around


def goodput_step(
    answers: Sequence[Answer],
    *,
    share: float,
    rate_per_s: float,
    lead_s: float,
    window_s: float,
    limits: Limits,
    around: Around,
) -> GoodputStep:
    """Compute the figures of a step. Goodput is over the window's arrivals only."""
    window = counted(answers, lead_s=lead_s)
    good = sum(answer.served and limits.kept_by(answer.record) for answer in window)
    return GoodputStep(
        share=share,
        rate_per_s=rate_per_s,
        lead_s=lead_s,
        group=Group.of(window, window_s=window_s),
        good=good,
        goodput_per_s=good / window_s,
        around=around,
    )


@dataclass(frozen=True, slots=True)
class GoodputRatio:
    """Goodput at the highest rate, over the best of all steps."""

    value: float
    highest: GoodputStep
    peak: GoodputStep


def goodput_ratio(steps: Sequence[GoodputStep]) -> GoodputRatio:
    """Compute the ratio of some steps.

    Raises:
        ValueError: There is no step, or no request was good.
    """
    highest = max(steps, key=lambda step: step.share)
    peak = max(steps, key=lambda step: step.goodput_per_s)
    if not peak.good:
        raise ValueError("no request of any step was good")
    return GoodputRatio(highest.goodput_per_s / peak.goodput_per_s, highest, peak)


@dataclass(frozen=True, slots=True)
class FairnessPhase:
    """One phase of a pair.

    Attributes:
        pair: Index of the pair, from 0.
        by_tenant: TTFT of each quiet tenant.
    """

    pair: int
    phase: Phase
    quiet: Group
    by_tenant: Mapping[str, Times | None]
    noisy: Group
    around: Around

    @property
    def p95_s(self) -> float | None:
        """The 95th percentile of the quiet tenants' TTFT."""
        return None if self.quiet.ttft_s is None else self.quiet.ttft_s.p95


def fairness_phase(
    answers: Sequence[Answer],
    *,
    pair: int,
    phase: Phase,
    lead_s: float,
    window_s: float,
    around: Around,
) -> FairnessPhase:
    """Compute the figures of a phase."""
    window = counted(answers, lead_s=lead_s)
    quiet = [answer for answer in window if answer.tenant != NOISY]
    noisy = [answer for answer in window if answer.tenant == NOISY]
    names = sorted({answer.tenant for answer in quiet})
    return FairnessPhase(
        pair=pair,
        phase=phase,
        quiet=Group.of(quiet, window_s=window_s),
        by_tenant={name: _ttft([a for a in quiet if a.tenant == name]) for name in names},
        noisy=Group.of(noisy, window_s=window_s),
        around=around,
    )


def _ttft(answers: Sequence[Answer]) -> Times | None:
    times_s = [a.record.ttft_s for a in answers if a.served and a.record.ttft_s is not None]
    return Times.of(times_s)


@dataclass(frozen=True, slots=True)
class Fairness:
    """The quiet tenants' p95 in phase B over that in phase A.

    Attributes:
        ratio: Ratio over the counted pairs.
        disturbed: Number of counted pairs with a disturbed phase.
        dropped: Number of pairs excluded for a disturbed phase.
    """

    ratio: Ratio
    disturbed: int
    dropped: int


def fairness(phases: Sequence[FairnessPhase], *, seed: int) -> Fairness:
    """Compute the ratio over pairs.

    A disturbed A would favour B, so disturbed pairs are dropped if at least half of the pairs
    remain.

    Raises:
        ValueError: No pair has a p95 in both phases.
    """
    ratios: dict[bool, list[float]] = {False: [], True: []}
    for pair in sorted({one.pair for one in phases}):
        both = {one.phase: one for one in phases if one.pair == pair}
        before_s, after_s = (both[name].p95_s if name in both else None for name in ("A", "B"))
        if before_s and after_s:
            disturbed = any(one.around.conditions.disturbance for one in both.values())
            ratios[disturbed].append(after_s / before_s)
    if len(ratios[False]) >= max(1, len(ratios[True])):
        return Fairness(ratio(ratios[False], seed=seed), 0, len(ratios[True]))
    return Fairness(ratio([*ratios[False], *ratios[True]], seed=seed), len(ratios[True]), 0)
