"""Reports a comparison of gateways as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.gateways.studies.study import Sample, Study
from benchmarks.gateways.summary import Row
from benchmarks.reporting.report import provenance, ratio_text, table, write_document
from benchmarks.reporting.summary import DROP_RULE
from benchmarks.running.machine import MachineInfo


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study, its samples and its rows."""

    study: Study
    samples: Sequence[Sample]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class GatewayRun:
    """The result of a comparison. `began` has a time zone.

    Attributes:
        foreign_versions: Versions of the gateways that have their own environments.
    """

    began: datetime
    took_s: float
    command: tuple[str, ...]
    machine: MachineInfo
    foreign_versions: Mapping[str, str | None]
    results: Sequence[StudyResult]


def write_json(run: GatewayRun, directory: Path) -> Path:
    """Write the run to `<date>-gateways.json`."""
    document = {
        "began": run.began,
        "took_s": run.took_s,
        "command": run.command,
        "machine": asdict(run.machine),
        "foreign_versions": dict(run.foreign_versions),
        "drop_rule": DROP_RULE,
        "studies": [_study(result) for result in run.results],
    }
    return write_document(document, directory, began=run.began, name="gateways")


def _study(result: StudyResult) -> dict[str, Any]:
    return {
        "name": result.study.name,
        "procedure": result.study.procedure,
        "pace": asdict(result.study.pace),
        "rows": [asdict(row) for row in result.rows],
        "samples": [_sample(sample) for sample in result.samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    outcome = sample.outcome
    return {
        "round_number": sample.round_number,
        "label": sample.label,
        "values": dict(outcome.values),
        "failure": sample.failure,
        "disturbance": sample.disturbance,
        **asdict(outcome.conditions),
        "details": list(outcome.details),
    }


def markdown(run: GatewayRun) -> str:
    """Render each study's procedure, figures and ratios, and their provenance."""
    sections = [line for result in run.results for line in _section(result)]
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    foreign = ", ".join(f"{name} {number}" for name, number in run.foreign_versions.items())
    return "\n".join([*sections, f"{told} {foreign}. {DROP_RULE}"])


def _section(result: StudyResult) -> list[str]:
    study, rows = result.study, result.rows
    failed = [f"{row.label} failed in every round: {row.failure}" for row in rows if row.failure]
    ratios = _ratio_table(study, rows)
    parts = [[f"### {study.name}"], [study.procedure], _figures(study, rows), ratios, failed]
    return [line for part in parts if part for line in (*part, "")]


def _figures(study: Study, rows: Sequence[Row]) -> list[str]:
    columns = ["server", *(column.title for column in study.columns), "rounds"]
    cells = [
        [
            row.label,
            *(_number(row.medians.get(c.value), c.digits) for c in study.columns),
            f"{row.rounds}{' (disturbed)' if row.disturbed and row.rounds else ''}",
        ]
        for row in rows
    ]
    return table(columns, cells)


def _ratio_table(study: Study, rows: Sequence[Row]) -> list[str]:
    """Return a row for each compared figure and gateway, with a column for each reference."""
    compared = [column for column in study.columns if column.compared]
    over = list(dict.fromkeys(r for row in rows for c in compared for r in row.ratios[c.value]))
    cells = [
        [c.title, row.label, *(_ratio(row.ratios[c.value].get(name)) for name in over)]
        for c in compared
        for row in rows
        if row.ratios[c.value]
    ]
    return table(["figure", "server", *(f"over {name}" for name in over)], cells) if over else []


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ratio(value: Any) -> str:
    return "" if value is None else ratio_text(value)
