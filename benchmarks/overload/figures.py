"""What answers under overload come to: goodput, refusals, and fairness over pairs of phases.

Pure functions of answers; only what arrived after the lead-in counts.
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
    """Distribution of a time, s."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Times | None:
        """Of some values; None of none."""
        if not values:
            return None
        p50, p95, p99 = (percentile(values, percent) for percent in (50, 95, 99))
        return cls(count=len(values), p50=p50, p95=p95, p99=p99)


@dataclass(frozen=True, slots=True)
class Around:
    """What else there is to know of a load.

    Attributes:
        client_cpu_share: Of one core, used by the client. Near 1 it measures itself.
        held_s: How long after they were due requests were sent.
        load_average: Of the machine over the last minute, at the end.
        conditions: What else ran on it.
    """

    client_cpu_share: float
    held_s: Times | None
    load_average: float
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Refusals:
    """Requests that were told to come later.

    Attributes:
        outcomes: How many of each status and code.
        told_s: From when a request was due to the end of its refusal.
        in_time: How many were told within `REFUSAL_GOAL_S`.
        without_retry_after: How many did not say when to come back.
    """

    outcomes: Mapping[str, int]
    told_s: Times | None
    in_time: int
    without_retry_after: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Refusals:
        """Those among some answers."""
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
        """All of them."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Group:
    """What became of the requests of some tenants.

    Attributes:
        sent: Requests, whatever became of them.
        served_per_s: Answered whole, over the window.
        ttft_s: Of those.
        failures: Neither served nor refused: how many of each reason.
    """

    sent: int
    served: int
    served_per_s: float
    ttft_s: Times | None
    refusals: Refusals
    failures: Mapping[str, int]

    @classmethod
    def of(cls, answers: Sequence[Answer], *, window_s: float) -> Group:
        """Of all these answers."""
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
    """Those that were due after the lead-in."""
    return [answer for answer in answers if answer.at_s >= lead_s]


@dataclass(frozen=True, slots=True)
class GoodputStep:
    """One rate of one tenant's open loop.

    Attributes:
        share: Of the saturation rate.
        good: Requests that were served and kept every limit.
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
    """The figures of a step; goodput is over the window, to which no other arrivals belong."""
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
    """Goodput at the highest rate over the best of all steps, which may be luckier than it."""

    value: float
    highest: GoodputStep
    peak: GoodputStep


def goodput_ratio(steps: Sequence[GoodputStep]) -> GoodputRatio:
    """The ratio of some steps.

    Raises:
        ValueError: If there is none, or no request of any was good.
    """
    highest = max(steps, key=lambda step: step.share)
    peak = max(steps, key=lambda step: step.goodput_per_s)
    if not peak.good:
        raise ValueError("no request of any step was good")
    return GoodputRatio(highest.goodput_per_s / peak.goodput_per_s, highest, peak)


@dataclass(frozen=True, slots=True)
class FairnessPhase:
    """One phase of one pair.

    Attributes:
        pair: Its number, from 0.
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
        """TTFT of the quiet tenants that 95 % of their served requests keep."""
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
    """The figures of a phase."""
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
    """The quiet tenants' p95 of B over that of A.

    Attributes:
        ratio: Over the pairs that count.
        disturbed: How many of those had a disturbed phase.
        dropped: Pairs that do not count, because they had one.
    """

    ratio: Ratio
    disturbed: int
    dropped: int


def fairness(phases: Sequence[FairnessPhase], *, seed: int) -> Fairness:
    """The ratio over pairs.

    A disturbed A would flatter B. Such pairs are dropped if that leaves half of them at least.

    Raises:
        ValueError: If there is no pair of which both phases have a p95.
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
