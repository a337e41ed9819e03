"""Reports an evaluation of detection as JSON and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.pii.cover import CORE, Cover
from benchmarks.reporting.report import provenance, table, write_document
from benchmarks.reporting.statistics import Summary
from benchmarks.running.machine import MachineInfo

_MIB = 2**20

RULE = (
    "An entity counts when every letter and digit of it is in a span of any type. Core: "
    + ", ".join(CORE)
    + ". Precision: letters and digits in spans that lie in an entity of any type. The halves share"
    " no template, but people and streets come from the same lists."
)


@dataclass(frozen=True, slots=True)
class HalfResult:
    """Figures of one half of the templates."""

    half: str
    sentences: int
    cover: Cover


@dataclass(frozen=True, slots=True)
class IdentifierResult:
    """Number of generated values, and kind and form of the missed ones."""

    count: int
    missed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PiiRun:
    """The result of one evaluation. `began` has a time zone.

    Attributes:
        times: Seconds per thousand characters, by the parts of detection.
        pss_bytes: Memory of the detecting process at its end.
    """

    began: datetime
    took_s: float
    command: tuple[str, ...]
    machine: MachineInfo
    halves: Sequence[HalfResult]
    identifiers: IdentifierResult
    times: Mapping[str, Summary]
    pss_bytes: int


def write_json(run: PiiRun, directory: Path) -> Path:
    """Write the run to `<date>-pii.json`."""
    return write_document(asdict(run), directory, began=run.began, name="pii")


def markdown(run: PiiRun) -> str:
    """Render the tables and their provenance."""
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    parts = [_cover_table(run.halves), _identifiers(run.identifiers), _cost_table(run)]
    return "\n".join([line for part in parts for line in (*part, "")] + [f"{told} {RULE}"])


def _cover_table(halves: Sequence[HalfResult]) -> list[str]:
    known: Counter[str] = sum((Counter(half.cover.known) for half in halves), Counter())
    others = sorted(known.keys() - set(CORE), key=lambda one: -known[one])
    rows = [
        ["core", *(_share(half.cover, *CORE) for half in halves)],
        *([one, *(_share(half.cover, one) for half in halves)] for one in [*CORE, *others]),
        ["character precision", *(f"{half.cover.precision:.3f}" for half in halves)],
    ]
    heads = [f"{half.half} ({half.sentences} sentences)" for half in halves]
    return table(["fully covered", *heads], rows)


def _share(cover: Cover, *types: str) -> str:
    known = sum(cover.known.get(one, 0) for one in types)
    return f"{cover.share(*types):.3f} of {known:,}" if known else ""


def _identifiers(result: IdentifierResult) -> list[str]:
    found = result.count - len(result.missed)
    worst = ", ".join(f"{what} ({n})" for what, n in Counter(result.missed).most_common(8))
    told = f" Missed: {worst}." if worst else ""
    return [f"Generated identifiers and secrets found: {found:,} of {result.count:,}.{told}"]


def _cost_table(run: PiiRun) -> list[str]:
    rows = [
        (parts, f"{summary.p50 * 1000:.1f}", f"{summary.p99 * 1000:.1f}", str(summary.count))
        for parts, summary in run.times.items()
    ]
    memory = f"Memory of the process (PSS): {run.pss_bytes / _MIB:.0f} MiB. One core, one thread."
    columns = ("1,000 characters through", "p50 ms", "p99 ms", "texts")
    return [*table(columns, rows), "", memory]
