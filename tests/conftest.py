"""For all tests."""

from __future__ import annotations

import gc

GC_THRESHOLD = (20_000, 20, 20)


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: it would look at it a thousand times."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
