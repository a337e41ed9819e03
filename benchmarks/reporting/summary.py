"""Summarises measurements: which rounds count, and the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.reporting.statistics import (
    Ratio,
    Summary,
    percentile,
    ratio,
    round_ratios,
    summarise,
)
from benchmarks.running.measure import Measurement, MeasurementError

# Published with every result, so that readers know what was left out.
DROP_RULE = (
    "A round is dropped at a stream count, or in a study, for every arm, when a request of any arm "
    "failed there, or when during any arm's run steal was over 2 % or foreign processes used over "
    "5 % of the machine's CPU time. If that leaves fewer than half of the rounds without a "
    "failure, disturbed rounds are used as well and the stream count or study is marked."
)
_BOOTSTRAP_SEED = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One entry at one stream count.

    Attributes:
        tokens_per_s: Median over rounds of output tokens per second.
        speed: Per-round ratio of `tokens_per_s` to the baseline's; the baseline's own is 1.
        ttft_s: Distribution over the requests of all counted rounds.
        itl_s: Distribution over the gaps of all counted rounds.
        cpu_s_per_token: Median over rounds of the CPU time of the server's process tree.
        cpu: Per-round ratio of `cpu_s_per_token`; None if a value is below one clock tick.
        disturbed: Whether rounds on a disturbed machine had to be used.
    """

    streams: int
    label: str
    tokens_per_s: float
    speed: Ratio
    ttft_s: Summary
    itl_s: Summary
    cpu_s_per_token: float
    cpu: Ratio | None
    disturbed: bool


def summarise_run(measurements: Sequence[Measurement], *, labels: Sequence[str]) -> list[Line]:
    """Return lines by stream count in order of first appearance, then by label.

    Args:
        measurements: Measurements of all rounds; one per label, round and stream count.
        labels: Labels of all entries. The first is the baseline that the others are divided by.

    Raises:
        MeasurementError: Requests failed in every round of a stream count.
    """
    lines = []
    for streams in dict.fromkeys(m.streams for m in measurements):
        runs = [m for m in measurements if m.streams == streams]
        rounds, disturbed = counted_rounds(runs)
        kept = [m for m in runs if m.round_number in rounds]
        by_label = {label: [m for m in kept if m.label == label] for label in labels}
        base = by_label[labels[0]]
        lines += [_line(own, base, disturbed=disturbed) for own in by_label.values()]
    return lines


class ArmRun(Protocol):
    """One run of one arm, as far as `DROP_RULE` is concerned."""

    @property
    def label(self) -> str:
        """Label of the arm."""

    @property
    def round_number(self) -> int:
        """Index of the round, from 0."""

    @property
    def failure(self) -> str | None:
        """Reason why the run is useless, or None."""

    @property
    def disturbance(self) -> str | None:
        """Why the machine may have distorted the figures, or None."""


def counted_rounds(runs: Sequence[ArmRun]) -> tuple[set[int], bool]:
    """Return the rounds that `DROP_RULE` keeps, and whether disturbed ones are among them.

    Args:
        runs: Runs of one stream count or of one study.

    Raises:
        MeasurementError: No round is left.
    """
    failed = {m.round_number for m in runs if m.failure}
    served = {m.round_number for m in runs} - failed
    if not served:
        reasons = "; ".join(sorted({f"{m.label}: {m.failure}" for m in runs if m.failure}))
        raise MeasurementError(f"requests failed in every round: {reasons}")
    quiet = served - {m.round_number for m in runs if m.disturbance}
    if len(quiet) * 2 < len(served):
        return served, True
    return quiet, False


def _line(own: Sequence[Measurement], base: Sequence[Measurement], *, disturbed: bool) -> Line:
    cpu_s = {m.round_number: m.cpu_s / m.output_tokens for m in own}
    speed = {m.round_number: m.tokens_per_s for m in own}
    base_cpu_s = {m.round_number: m.cpu_s / m.output_tokens for m in base}
    base_speed = {m.round_number: m.tokens_per_s for m in base}
    measurable = min(*cpu_s.values(), *base_cpu_s.values()) > 0
    records = [record for m in own for record in m.records]
    return Line(
        streams=own[0].streams,
        label=own[0].label,
        tokens_per_s=percentile(list(speed.values()), 50),
        speed=ratio(round_ratios(speed, base_speed), seed=_BOOTSTRAP_SEED),
        ttft_s=summarise([r.ttft_s for r in records if r.ttft_s is not None]),
        itl_s=summarise([gap for r in records for gap in r.itl_s]),
        cpu_s_per_token=percentile(list(cpu_s.values()), 50),
        cpu=ratio(round_ratios(cpu_s, base_cpu_s), seed=_BOOTSTRAP_SEED) if measurable else None,
        disturbed=disturbed,
    )
