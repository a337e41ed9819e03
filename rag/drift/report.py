"""A report of drift: measures over what was summed, and which of them alarm. No database here.

Queries differ from documents by nature. So what alarms is that recent queries differ from earlier
ones, or that their distance from the documents grew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rag.drift.alerts import ALARMING
from rag.drift.sums import SCORE_BINS, Baseline, Sums, centroid_shift, stability_index


@dataclass(frozen=True, slots=True)
class DriftThresholds:
    """Beyond which a measure alarms. Calibrated so that equal samples do in fewer than 1 of 100.

    Attributes:
        canary_cosine: the embedder is another one under it.
        stability_index: of recent queries against earlier ones.
        centroid_shift: of the same, squared distance.
        low_share: by how much more searches find nothing near.
        stale_share: of files that are older than `stale_days`.
        least_queries: of each side, for a measure to be told at all.
    """

    canary_cosine: float = 0.999
    stability_index: float = 0.25
    centroid_shift: float = 0.1
    low_share: float = 0.15
    stale_share: float = 0.9
    stale_days: int = 365
    least_queries: int = 100


@dataclass(frozen=True, slots=True)
class Staleness:
    """How old a store's files are."""

    files: int
    newest_age_days: float | None
    old_share: float | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What is known of a store's drift. A measure is None where `missing` says why.

    Attributes:
        canary_cosine: worst cosine of fixed texts now against when the vectors were made.
        queries: of the last days.
        earlier_queries: of the days before.
        psi: of recent queries against earlier ones.
        psi_documents: of recent queries against documents.
        psi_documents_earlier: of earlier queries against documents.
        centroid_shift: of recent queries against earlier ones.
        centroid_shift_documents: of recent queries against documents.
        scores: recent best cosines, in bins from 0 to 1.
        score_quantiles: of the same: p10, p50, p90.
        low_share: of recent searches without a near hit.
        psi_by_day: of each day's queries against documents.
        alerts: names of measures that passed their threshold.
    """

    store_id: str
    generation: str
    created_at: int
    canary_cosine: float | None
    queries: int
    earlier_queries: int
    staleness: Staleness
    psi: float | None = None
    psi_documents: float | None = None
    psi_documents_earlier: float | None = None
    centroid_shift: float | None = None
    centroid_shift_documents: float | None = None
    scores: list[int] = field(default_factory=list)
    score_quantiles: dict[str, float] = field(default_factory=dict)
    low_share: float | None = None
    low_share_earlier: float | None = None
    psi_by_day: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the API and the database."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a report is made from. `days` are of recent queries."""

    baseline: Baseline | None
    recent: Sums
    earlier: Sums
    days: Mapping[str, Sums]
    staleness: Staleness
    canary_cosine: float | None


def report(
    observed: Observed, *, store_id: str, generation: str, now: int, thresholds: DriftThresholds
) -> DriftReport:
    """Measure, and say what alarms."""
    measures, missing = _measures(observed, thresholds)
    return DriftReport(
        store_id=store_id,
        generation=generation,
        created_at=now,
        canary_cosine=observed.canary_cosine,
        queries=observed.recent.count,
        earlier_queries=observed.earlier.count,
        staleness=observed.staleness,
        missing=missing,
        alerts=_alerts(observed, measures, thresholds),
        scores=[int(count) for count in observed.recent.scores],
        score_quantiles=score_quantiles(observed.recent),
        psi_by_day=_by_day(observed, thresholds),
        **measures,
    )


def _measures(
    observed: Observed, thresholds: DriftThresholds
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Numbers by name, and why there are none."""
    recent, earlier = observed.recent, observed.earlier
    documents = observed.baseline.sums if observed.baseline else None
    pairs = {
        "psi": (stability_index, recent, earlier),
        "centroid_shift": (centroid_shift, recent, earlier),
        "psi_documents": (stability_index, recent, documents),
        "psi_documents_earlier": (stability_index, earlier, documents),
        "centroid_shift_documents": (centroid_shift, recent, documents),
    }
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name, (measure, one, other) in pairs.items():
        if other is None:
            values[name], missing[name] = None, "no sample of the documents yet"
        elif reason := _too_few(one, other, thresholds.least_queries):
            values[name], missing[name] = None, reason
        else:
            values[name] = measure(one, other)
    for name, sums in (("low_share", recent), ("low_share_earlier", earlier)):
        if reason := _too_few(sums, sums, thresholds.least_queries):
            values[name], missing[name] = None, reason
        else:
            values[name] = sums.low / sums.count
    if observed.canary_cosine is None:
        missing["canary_cosine"] = "its embedder is not served"
    return values, missing


def _too_few(one: Sums, other: Sums, least: int) -> str | None:
    fewest = min(one.count, other.count)
    return f"too few samples: {fewest} of {least}" if fewest < least else None


def _alerts(
    observed: Observed, measures: Mapping[str, float | None], thresholds: DriftThresholds
) -> list[str]:
    stale, canary = observed.staleness, observed.canary_cosine
    grown = _growth(measures, "psi_documents", "psi_documents_earlier")
    low = _growth(measures, "low_share", "low_share_earlier")
    passed = {
        "canary_cosine": canary is not None and canary < thresholds.canary_cosine,
        "psi": (measures["psi"] or 0) > thresholds.stability_index,
        "psi_documents": grown > thresholds.stability_index,
        "centroid_shift": (measures["centroid_shift"] or 0) > thresholds.centroid_shift,
        "low_share": low > thresholds.low_share,
        "staleness": (stale.old_share or 0) > thresholds.stale_share,
    }
    return [name for name in ALARMING if passed[name]]


def _growth(measures: Mapping[str, float | None], name: str, earlier: str) -> float:
    now, before = measures[name], measures[earlier]
    return 0.0 if now is None or before is None else now - before


def score_quantiles(sums: Sums) -> dict[str, float]:
    """p10, p50 and p90 of best cosines, to the upper end of a bin; empty without any."""
    if not sums.count:
        return {}
    reached = np.cumsum(sums.scores) / sums.count
    return {
        f"p{percent}": (int(np.searchsorted(reached, percent / 100)) + 1) / SCORE_BINS
        for percent in (10, 50, 90)
    }


def _by_day(observed: Observed, thresholds: DriftThresholds) -> dict[str, float]:
    if observed.baseline is None:
        return {}
    documents = observed.baseline.sums
    return {
        day: stability_index(sums, documents)
        for day, sums in sorted(observed.days.items())
        if not _too_few(sums, documents, thresholds.least_queries)
    }
