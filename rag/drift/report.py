"""A drift report: measures computed from sums, and the alerts they raise. No database here.

Queries differ from documents by nature. Alerts therefore compare recent queries with earlier ones,
or watch whether their distance to the documents grows.
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
    """Limits of the measures. Equal distributions exceed one in fewer than 1 of 100 cases.

    Attributes:
        canary_cosine: minimum cosine; below it, the embedder has changed.
        stability_index: maximum index of recent queries against earlier ones.
        centroid_shift: maximum squared distance between the same two.
        low_share: maximum growth of the share of searches without a near hit.
        stale_share: maximum share of files that are older than `stale_days`.
        least_queries: minimum samples on each side; below it, a measure is missing.
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
    """Age of a store's files."""

    files: int
    newest_age_days: float | None
    old_share: float | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The drift of a store. A measure is None if `missing` gives a reason.

    Attributes:
        canary_cosine: lowest cosine of the canaries' vectors now and when the store was embedded.
        queries: number of recent queries.
        earlier_queries: number of queries in the period before.
        psi: stability index of recent queries against earlier ones.
        psi_documents: stability index of recent queries against documents.
        psi_documents_earlier: stability index of earlier queries against documents.
        centroid_shift: squared distance between recent and earlier queries.
        centroid_shift_documents: squared distance between recent queries and documents.
        scores: histogram of the best cosines of recent searches, from 0 to 1.
        score_quantiles: p10, p50 and p90 of the same cosines.
        low_share: share of recent searches without a near hit.
        psi_by_day: stability index of each day's queries against documents.
        alerts: names of the measures beyond their threshold.
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
        """Convert for the API and the database."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Observed:
    """Input of a report. `days` holds the recent queries by day."""

    baseline: Baseline | None
    recent: Sums
    earlier: Sums
    days: Mapping[str, Sums]
    staleness: Staleness
    canary_cosine: float | None


def report(
    observed: Observed, *, store_id: str, generation: str, now: int, thresholds: DriftThresholds
) -> DriftReport:
    """Compute the measures and their alerts."""
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
    """Return the measures by name, and the reasons for missing ones."""
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
    """Return p10, p50 and p90 of the best cosines, rounded up to a bin's end; empty without any."""
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
