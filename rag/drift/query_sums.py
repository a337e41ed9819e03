"""Sums over the searches of one process, by generation and day, until they are stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from rag.drift.sums import Baseline, Sums


class QuerySums:
    """Counts searches in memory. Searches of a generation without a baseline are not counted."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._baselines: dict[str, Baseline] = {}
        self._sums: dict[tuple[str, str], Sums] = {}
        self.unknown: set[str] = set()
        """Generations that were searched but have no baseline yet."""

    def know(self, baseline: Baseline) -> None:
        """Count searches of the baseline's generation from now on."""
        self._baselines[baseline.generation_id] = baseline
        self.unknown.discard(baseline.generation_id)

    def forget(self, generation_id: str) -> None:
        """Stop counting searches of a generation that no longer exists."""
        self._baselines.pop(generation_id, None)
        self.unknown.discard(generation_id)

    def add(
        self, generation_id: str, vector: NDArray[np.float32], best_cosine: float | None
    ) -> None:
        """Count one search: the query's vector, L2-normalised, and the cosine of its best hit."""
        baseline = self._baselines.get(generation_id)
        if baseline is None:
            self.unknown.add(generation_id)
            return
        key = (generation_id, day_of(self._clock()))
        self._sums.setdefault(key, Sums.zero(len(vector))).add(vector, baseline, best_cosine)

    def take(self) -> dict[tuple[str, str], Sums]:
        """Return and reset the sums, by generation and day."""
        taken, self._sums = self._sums, {}
        return taken

    def put_back(self, taken: Mapping[tuple[str, str], Sums]) -> None:
        """Add back sums that could not be stored."""
        for key, sums in taken.items():
            kept = self._sums.get(key)
            self._sums[key] = sums if kept is None else kept + sums


def day_of(at: float) -> str:
    """Return the UTC date of a time in Unix seconds."""
    return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)).date().isoformat()
