"""Reports a study of overload as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.overload.figures import (
    FAIRNESS_GOAL,
    GOODPUT_GOAL,
    REFUSAL_GOAL_S,
    Around,
    Fairness,
    FairnessPhase,
    GoodputStep,
    Group,
    Times,
    fairness,
    goodput_ratio,
)
from benchmarks.overload.plan import OverloadPlan
from benchmarks.reporting.report import provenance, ratio_text, table, write_document
from benchmarks.running.machine import MachineInfo


@dataclass(frozen=True, slots=True)
class OverloadRun:
    """The result of one study. `began` has a time zone.

    Attributes:
        simulation: The configured step-time model of the engine.
        saturation_per_s: Requests per second of the closed loop.
    """

    began: datetime
    took_s: float
    command: tuple[str, ...]
    machine: MachineInfo
    plan: OverloadPlan
    simulation: Mapping[str, float]
    saturation_per_s: float
    steps: Sequence[GoodputStep]
    phases: Sequence[FairnessPhase]

    @property
    def fairness(self) -> Fairness:
        """See `overload.figures.fairness`."""
        return fairness(self.phases, seed=self.plan.seed)


def write_json(run: OverloadRun, directory: Path) -> Path:
    """Write the run to `<date>-overload.json`."""
    goodput = goodput_ratio(run.steps)
    document: dict[str, Any] = asdict(run) | {
        "goodput_ratio": goodput.value,
        "goodput_peak_share": goodput.peak.share,
        "fairness": asdict(run.fairness),
    }
    return write_document(document, directory, began=run.began, name="overload")


def markdown(run: OverloadRun) -> str:
    """Render the figures with their goals, both tables, and their provenance."""
    parts = [
        _verdicts(run),
        ["### goodput"],
        [_goodput_procedure(run)],
        _goodput_table(run.steps),
        ["### fairness"],
        [_fairness_procedure(run)],
        _fairness_table(run.phases),
        [_told(run)],
    ]
    return "\n".join(line for part in parts for line in (*part, "")).strip()


def _verdicts(run: OverloadRun) -> list[str]:
    goodput, fair = goodput_ratio(run.steps), run.fairness
    shares = f"{goodput.highest.share:g} x saturation over peak (at {goodput.peak.share:g} x)"
    told_s = goodput.highest.group.refusals.told_s
    refused = sum(phase.quiet.refusals.count for phase in run.phases)
    failed = sum(sum(group.failures.values()) for group in _groups(run))
    silent = sum(group.refusals.without_retry_after for group in _groups(run))
    rows = [
        _verdict(
            f"goodput at {shares}",
            f"{goodput.value:.3f}",
            f">= {GOODPUT_GOAL}",
            kept=goodput.value >= GOODPUT_GOAL,
            note=_told_of_steps(goodput.highest.around, goodput.peak.around),
        ),
        _verdict(
            "time to a refusal there, p50 / p99 ms",
            _pair_ms(told_s),
            f"p99 < {REFUSAL_GOAL_S * 1000:.0f}",
            kept=told_s is None or told_s.p99 < REFUSAL_GOAL_S,
            note=_told_of_steps(goodput.highest.around),
        ),
        _verdict(
            "quiet tenants' TTFT p95, B over A",
            f"{ratio_text(fair.ratio)}, pairs: {fair.ratio.rounds}",
            f"<= {FAIRNESS_GOAL}",
            kept=fair.ratio.mean <= FAIRNESS_GOAL,
            note=_told_of(fair),
        ),
        _verdict("requests of quiet tenants refused", f"{refused}", "0", kept=not refused),
        _verdict("requests failed otherwise", f"{failed}", "0", kept=not failed),
        _verdict("refusals without retry-after", f"{silent}", "0", kept=not silent),
    ]
    return table(("figure", "measured", "goal", ""), rows)


def _verdict(
    figure: str, measured: str, goal: str, *, kept: bool, note: str = ""
) -> tuple[str, ...]:
    return (figure, measured, goal, f"{'kept' if kept else 'MISSED'}{note}")


def _told_of_steps(*around: Around) -> str:
    disturbed = sum(one.conditions.disturbance is not None for one in around)
    return f" (disturbed: {disturbed} of {len(around)})" if disturbed else ""


def _told_of(fair: Fairness) -> str:
    if fair.disturbed:
        return f" (disturbed: {fair.disturbed} of {fair.ratio.rounds})"
    return f" (dropped as disturbed: {fair.dropped})" if fair.dropped else ""


def _groups(run: OverloadRun) -> list[Group]:
    pairs = [(phase.quiet, phase.noisy) for phase in run.phases]
    return [*(step.group for step in run.steps), *(group for pair in pairs for group in pair)]


def _goodput_procedure(run: OverloadRun) -> str:
    plan = run.plan
    return (
        f"One tenant, Poisson arrivals for {plan.window_s:.0f} s after a lead-in that does not "
        f"count ({plan.lead_s:.0f} s; {plan.overload_lead_s:.0f} s from the saturation rate on). "
        f"Saturation, {run.saturation_per_s:.1f} requests/s, is what a closed loop of "
        f"{closed_streams(plan)} connections has answered. Good: answered whole within "
        f"{plan.limits.shown()}."
    )


def closed_streams(plan: OverloadPlan) -> int:
    """Return the connections of the closed loop: 25 % more than slots, so that no slot is idle."""
    return plan.slots + max(1, plan.slots // 4)


def _goodput_table(steps: Sequence[GoodputStep]) -> list[str]:
    columns = (
        "x saturation", "requests/s", "sent", "served/s", "goodput/s", "TTFT p50 / p95 / p99 ms",
        "refused", "time to it p50 / p99 ms", "within 50 ms", "failed", "client core %", "machine",
    )  # fmt: skip
    rows = [
        (
            f"{step.share:g}",
            f"{step.rate_per_s:.1f}",
            f"{step.group.sent}",
            f"{step.group.served_per_s:.2f}",
            f"{step.goodput_per_s:.2f}",
            _triple_ms(step.group.ttft_s),
            _counts(step.group.refusals.outcomes),
            _pair_ms(step.group.refusals.told_s),
            f"{step.group.refusals.in_time}",
            _counts(step.group.failures),
            f"{step.around.client_cpu_share * 100:.0f}",
            _machine(step.around),
        )
        for step in steps
    ]
    return table(columns, rows)


def _fairness_procedure(run: OverloadRun) -> str:
    plan = run.plan
    share_per_s = run.saturation_per_s / len(plan.tenants)
    return (
        f"{len(plan.tenants)} tenants of one weight, so a share is {share_per_s:.2f} requests/s. "
        f"{len(plan.quiet)} are quiet: {plan.quiet_part:g} of a share each, with the same arrivals "
        f"in both phases of a pair. The noisy one asks for as much in A, for {plan.noisy_times:g} "
        f"shares in B. {plan.window_s:.0f} s of arrivals count, after {plan.overload_lead_s:.0f} s "
        f"that do not; at most {plan.connections} connections."
    )


def _fairness_table(phases: Sequence[FairnessPhase]) -> list[str]:
    columns = (
        "pair", "phase", "quiet sent", "TTFT p50 / p95 / p99 ms", "p95 by tenant ms",
        "quiet refused", "noisy sent/s", "noisy served/s", "all served/s", "noisy refused",
        "time to it p50 / p99 ms", "failed", "client core %", "machine",
    )  # fmt: skip
    rows = [
        (
            f"{one.pair + 1}",
            one.phase,
            f"{one.quiet.sent}",
            _triple_ms(one.quiet.ttft_s),
            _range_ms([times.p95 for times in one.by_tenant.values() if times]),
            _counts(one.quiet.refusals.outcomes),
            f"{_per_s(one.noisy.sent, one):.1f}",
            f"{one.noisy.served_per_s:.2f}",
            f"{one.noisy.served_per_s + one.quiet.served_per_s:.2f}",
            _counts(one.noisy.refusals.outcomes),
            _pair_ms(one.noisy.refusals.told_s),
            _counts({**one.quiet.failures, **one.noisy.failures}),
            f"{one.around.client_cpu_share * 100:.0f}",
            _machine(one.around),
        )
        for one in phases
    ]
    return table(columns, rows)


def _per_s(count: int, phase: FairnessPhase) -> float:
    return count * phase.quiet.served_per_s / phase.quiet.served if phase.quiet.served else 0.0


def _told(run: OverloadRun) -> str:
    plan = run.plan
    model = ", ".join(f"{name} {value:g}" for name, value in run.simulation.items())
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    return (
        f"Simulated engine ({model}) of {plan.slots} slots, {plan.queued} queued; answers of "
        f"{plan.lengths[0]} to {plan.lengths[1]} tokens, streamed. {told}"
    )


def _machine(around: Around) -> str:
    return around.conditions.disturbance or "quiet"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "0"


def _pair_ms(times: Times | None) -> str:
    return f"{times.p50 * 1000:.1f} / {times.p99 * 1000:.1f}" if times else ""


def _triple_ms(times: Times | None) -> str:
    if times is None:
        return ""
    return f"{times.p50 * 1000:.0f} / {times.p95 * 1000:.0f} / {times.p99 * 1000:.0f}"


def _range_ms(values_s: Sequence[float]) -> str:
    if not values_s:
        return ""
    return f"{min(values_s) * 1000:.0f} to {max(values_s) * 1000:.0f}"
