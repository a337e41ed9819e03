"""Drift of vector stores in a gateway's metrics: read from the reports that `Knowledge` keeps."""

from __future__ import annotations

from collections import Counter
from functools import partial

from models.background import BackgroundLoop
from rag.database import SqlDatabase
from rag.drift.alerts import ALARMING, drifting_stores
from serving.telemetry.meter import Meter

EVERY_S = 60.0


class DriftWatch:
    """Looks at the last report of each store again and again.

    Args:
        database: where reports are.
        meter: shows how many stores alarm, by measure.
        every_s: how often.
    """

    def __init__(self, database: SqlDatabase, meter: Meter, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._stores: Counter[str] = Counter()
        self.loop = BackgroundLoop("drift_watch", self._look, every_s=every_s, at_once=True)
        for measure in ALARMING:
            meter.watch(
                "drifting_vector_stores", "Vector stores whose last report of drift alarms.",
                partial(self._count, measure), measure=measure,
            )  # fmt: skip

    def _count(self, measure: str) -> float:
        return self._stores[measure]

    async def _look(self) -> None:
        self._stores = await drifting_stores(self._database)
