"""For all tests."""

from __future__ import annotations

import gc

from hypothesis import settings

GC_THRESHOLD = (20_000, 20, 20)

# No example fails because the machine was busy while it ran.
settings.register_profile("ringfence", deadline=None)
settings.load_profile("ringfence")


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: it would look at it a thousand times."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
