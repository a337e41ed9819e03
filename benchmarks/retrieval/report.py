"""Reports a measurement of retrieval as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.reporting.report import provenance, ratio_text, table, write_document
from benchmarks.reporting.statistics import Ratio, Summary, ratio
from benchmarks.retrieval.cranfield import Quality
from benchmarks.running.machine import MachineInfo

_MIB = 2**20

RULE = (
    "Quality: means over questions of Cranfield, gain as judged; fusion was tuned on the even"
    " questions. Ingest: from the first upload to the last file indexed. Embedding alone: the same"
    " texts, cut where they are too long, 64 a request, two requests at once. Naive: one text a"
    " request, one `collection.add` each. Added by a search: its p50 less that of embedding the"
    " same question and of a raw query of as many vectors, which are those of the abstracts"
    " repeated with noise."
)


@dataclass(frozen=True, slots=True)
class KindQuality:
    """Quality of one kind of search, on the questions that fusion was not tuned on, and on all."""

    odd: Quality
    every: Quality


@dataclass(frozen=True, slots=True)
class Speeds:
    """Documents per second, by round."""

    whole_path: Sequence[float]
    embedding_alone: Sequence[float]
    naive: Sequence[float]

    def over(self, baseline: Sequence[float], *, seed: int) -> Ratio:
        """Return the ratio of the whole path to a baseline of the same rounds."""
        pairs = zip(self.whole_path, baseline, strict=True)
        return ratio([ours / theirs for ours, theirs in pairs], seed=seed)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of a search, of embedding its question, and of a raw query of a collection."""

    chunks: int
    search: Summary
    embedding: Summary
    raw: Summary

    @property
    def added_p50_s(self) -> float:
        """Median time that our path adds to a raw query, without the embedding."""
        return self.search.p50 - self.embedding.p50 - self.raw.p50


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory (PSS) of the process that holds the index, before and after chunks were added."""

    chunks: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class RetrievalRun:
    """The result of one run. `began` has a time zone.

    Parts that were not run are empty or None.
    """

    began: datetime
    took_s: float
    command: tuple[str, ...]
    machine: MachineInfo
    seed: int
    quality: Mapping[str, KindQuality] = field(default_factory=dict)
    speeds: Speeds | None = None
    latencies: Latencies | None = None
    growth: Growth | None = None


def write_json(run: RetrievalRun, directory: Path) -> Path:
    """Write the run to `<date>-retrieval.json`."""
    return write_document(asdict(run), directory, began=run.began, name="retrieval")


def markdown(run: RetrievalRun) -> str:
    """Render the tables and their provenance."""
    told = provenance(run.machine, began=run.began, took_s=run.took_s, command=run.command)
    parts = [_quality(run.quality), _figures(run)]
    return "\n".join([line for part in parts if part for line in (*part, "")] + [f"{told} {RULE}"])


def _quality(kinds: Mapping[str, KindQuality]) -> list[str]:
    rows = [
        (
            name,
            f"{kind.every.ndcg_at_10:.3f}",
            f"{kind.every.recall_at_100:.3f}",
            f"{kind.odd.ndcg_at_10:.3f}",
            f"{kind.odd.recall_at_100:.3f}",
        )
        for name, kind in kinds.items()
    ]
    columns = ("search", "nDCG@10", "recall@100", "nDCG@10, odd", "recall@100, odd")
    return table(columns, rows) if rows else []


def _figures(run: RetrievalRun) -> list[str]:
    rows: list[tuple[str, str]] = []
    if speeds := run.speeds:
        rows += [
            ("ingest over embedding alone", _speed(speeds, speeds.embedding_alone, run.seed)),
            ("ingest over a naive loop", _speed(speeds, speeds.naive, run.seed)),
        ]
    if latencies := run.latencies:
        rows += [
            (f"search of {latencies.chunks:,} chunks, p50 / p99", _times(latencies.search)),
            ("its embedding", _times(latencies.embedding)),
            ("raw query", _times(latencies.raw)),
            ("added p50", f"{latencies.added_p50_s * 1000:.1f} ms"),
        ]
    if growth := run.growth:
        grown = (growth.after_bytes - growth.before_bytes) / _MIB
        rows.append((f"memory for {growth.chunks:,} chunks", f"{grown:.0f} MiB"))
    return table(("figure", "value"), rows) if rows else []


def _speed(speeds: Speeds, baseline: Sequence[float], seed: int) -> str:
    rate = sum(speeds.whole_path) / len(speeds.whole_path)
    return f"{ratio_text(speeds.over(baseline, seed=seed))} at {rate:.1f} documents/s"


def _times(summary: Summary) -> str:
    return f"{summary.p50 * 1000:.1f} / {summary.p99 * 1000:.1f} ms"
