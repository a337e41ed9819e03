"""Reports a run as JSON, as Markdown, and as a section of the log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks.reporting.statistics import Ratio, Summary, summarise
from benchmarks.reporting.summary import DROP_RULE, Line
from benchmarks.running.machine import MachineInfo
from benchmarks.running.measure import Footprint, Measurement

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class ComparisonRun:
    """The result of a comparison. `began` has a time zone."""

    began: datetime
    took_s: float
    command: tuple[str, ...]
    baseline: str
    machine: MachineInfo
    footprints: Sequence[Footprint]
    measurements: Sequence[Measurement]
    lines: Sequence[Line]


def write_json(run: ComparisonRun, directory: Path) -> Path:
    """Write the run to `<date>-compare.json`."""
    document = asdict(run) | {
        "drop_rule": DROP_RULE,
        "measurements": [_measurement(m) for m in run.measurements],
    }
    return write_document(document, directory, began=run.began, name="compare")


def write_document(
    document: Mapping[str, Any], directory: Path, *, began: datetime, name: str
) -> Path:
    """Write `<date>-<name>.json`; the date includes the minute, so that a day's runs all remain."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{began:%Y-%m-%dT%H%M}-{name}.json"
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


def _measurement(measurement: Measurement) -> dict[str, Any]:
    """Convert a measurement, with percentiles in place of its thousands of times."""
    records = measurement.records
    fields = (
        "round_number", "label", "streams", "wall_s", "output_tokens", "tokens_per_s", "cpu_s",
        "client_cpu_s", "failure", "disturbance",
    )  # fmt: skip
    times = {
        "ttft_s": [r.ttft_s for r in records if r.ttft_s is not None],
        "tpot_s": [r.tpot_s for r in records if r.tpot_s is not None],
        "itl_s": [gap for r in records for gap in r.itl_s],
        "e2e_s": [r.e2e_s for r in records if r.error is None],
    }
    document = {name: getattr(measurement, name) for name in fields}
    return (
        document
        | asdict(measurement.conditions)
        | {name: summarise(values) if values else None for name, values in times.items()}
    )


def markdown(run: ComparisonRun) -> str:
    """Render the tables of the README, with hardware, commit, command and rule below them."""
    tables = [*_speed_table(run), "", *_footprint_table(run.footprints)]
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    return "\n".join([*tables, "", f"{told} {DROP_RULE}"])


def provenance(
    machine: MachineInfo, *, began: datetime, took_s: float, command: Sequence[str]
) -> str:
    """Render the provenance that figures are published with."""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items() if number)
    return (
        f"{began:%Y-%m-%d}, commit `{machine.commit}`, {machine.cores} cores of "
        f"{machine.cpu_model}, {machine.memory_bytes / 2**30:.0f} GiB, {versions}. "
        f"`{shlex.join(command)}`, {took_s / 60:.0f} min. In brackets: 95 % interval over rounds."
    )


def _speed_table(run: ComparisonRun) -> list[str]:
    columns = (
        "streams", "server", "output tokens/s", f"over {run.baseline}", "TTFT p50 / p99 ms",
        "ITL p50 / p99 ms", "CPU ms/token", "rounds",
    )  # fmt: skip
    rows = [
        (
            str(line.streams),
            line.label,
            f"{line.tokens_per_s:.1f}",
            ratio_text(line.speed),
            _milliseconds(line.ttft_s),
            _milliseconds(line.itl_s),
            f"{line.cpu_s_per_token * 1000:.1f}",
            f"{line.speed.rounds}{' (disturbed)' if line.disturbed else ''}",
        )
        for line in run.lines
    ]
    return table(columns, rows)


def _footprint_table(footprints: Sequence[Footprint]) -> list[str]:
    columns = ("server", "memory (PSS) MiB", "start to first answer s", "idle CPU % of a core")
    rows = [
        (f.arm, f"{f.pss_bytes / _MIB:.0f}", f"{f.ready_s:.0f}", f"{f.idle_cpu_share * 100:.1f}")
        for f in footprints
    ]
    return table(columns, rows)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Render the lines of a Markdown table."""
    head = [columns, ["---"] * len(columns)]
    return [f"| {' | '.join(row)} |" for row in [*head, *rows]]


def ratio_text(value: Ratio) -> str:
    """Format a ratio and its interval."""
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _milliseconds(value: Summary) -> str:
    return f"{value.p50 * 1000:.1f} / {value.p99 * 1000:.1f}"


def append_log(log: Path, *, date: datetime, title: str, body: str) -> None:
    """Append a dated section to the log of experiments."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n## {date:%Y-%m-%d} {title}\n\n{body.strip()}\n")
