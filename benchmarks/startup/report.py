"""Measured starts as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.reporting.report import provenance, table, write_document
from benchmarks.running.machine import MachineInfo
from benchmarks.startup.starts import Start


@dataclass(frozen=True, slots=True)
class StartupRun:
    """Every start, and what it must be read with. `began` has a zone."""

    began: datetime
    took_s: float
    command: tuple[str, ...]
    machine: MachineInfo
    starts: Sequence[Start]


def write_json(run: StartupRun, directory: Path) -> Path:
    """Write `<date>-startup.json`."""
    return write_document(asdict(run), directory, began=run.began, name="startup")


def markdown(run: StartupRun) -> str:
    """The first answer, the phases, the processes, then what they must be read with."""
    parts = [
        table(("figure", "median", "least", "most"), _totals(run.starts)),
        table(("phase", "s"), _phases(run.starts)),
        table(("process", "begins at s", "CPU s to the first answer"), _processes(run.starts)),
        [_told(run)],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def _totals(starts: Sequence[Start]) -> list[tuple[str, ...]]:
    figures = {
        "start to first answer, s": [start.answered_s for start in starts],
        "CPU of all processes until then, s": [start.cpu_s for start in starts],
    }
    return [
        (name, f"{median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}")
        for name, values in figures.items()
    ]


def _phases(starts: Sequence[Start]) -> list[tuple[str, str]]:
    """Medians of the phases that every start had, in order."""
    told = [dict(start.phases) for start in starts]
    return [
        (title, f"{median(one[title] for one in told):.1f}")
        for title, _ in starts[0].phases
        if all(title in one for one in told)
    ]


def _processes(starts: Sequence[Start]) -> list[tuple[str, str, str]]:
    """Medians over starts for each kind of process, by the time at which it begins."""
    kinds = {part.name for start in starts for part in start.parts}
    rows = []
    for kind in kinds:
        own = [[part for part in start.parts if part.name == kind] for start in starts]
        begins = median(min(part.began_s for part in parts) for parts in own if parts)
        rows.append((begins, kind, median(sum(part.cpu_s for part in parts) for parts in own)))
    return [(kind, f"{begins:.1f}", f"{cpu_s:.1f}") for begins, kind, cpu_s in sorted(rows)]


def _told(run: StartupRun) -> str:
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    foreign = max(start.conditions.foreign_share for start in run.starts)
    disturbed = sum(start.conditions.disturbance is not None for start in run.starts)
    return (
        f"{told} Starts: {len(run.starts)}, after one that does not count; disturbed: {disturbed};"
        f" others used up to {foreign:.0%} of the machine."
    )
