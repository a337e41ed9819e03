"""Drift of vector stores in a gateway's metrics: read from the reports that `Knowledge` keeps."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial

from rag.database import Database
from rag.drift.alerts import ALARMING, drifting_stores
from serving.storage.errors import DatabaseUnavailable
from serving.telemetry.meter import Meter

EVERY_S = 60.0


class DriftWatch:
    """Looks at the last report of each store again and again.

    Args:
        database: where reports are.
        meter: shows how many stores alarm, by measure.
        every_s: how often.
    """

    def __init__(self, database: Database, meter: Meter, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._stores: Counter[str] = Counter()
        self._watching: asyncio.Task[None] | None = None
        for measure in ALARMING:
            meter.watch(
                "drifting_vector_stores", "Vector stores whose last report of drift alarms.",
                partial(self._count, measure), measure=measure,
            )  # fmt: skip

    def start(self) -> None:
        """Begin to look."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def _count(self, measure: str) -> float:
        return self._stores[measure]

    async def _watch(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):  # What was last seen stands.
                self._stores = await drifting_stores(self._database)
            await asyncio.sleep(self._every_s)
