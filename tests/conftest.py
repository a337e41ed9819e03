"""Settings for all tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import settings

GC_THRESHOLD = (20_000, 20, 20)

# No example fails because the machine was busy while it ran.
settings.register_profile("ringfence", deadline=None)
settings.load_profile("ringfence")

TESTS = Path(__file__).parent
STACK = ("chaos", "deploy", "end_to_end")
"""Folders all of whose tests need the running stack."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those that start servers, before they are chosen by their marks.

    Where several processes run them, each server is started in one: a file's in the process of that
    file, the real engine in the process of all that ask it.
    """
    for item in items:
        path = item.path.relative_to(TESTS)
        if path.parts[0] in STACK:
            item.add_marker(pytest.mark.stack)
        if item.get_closest_marker("stack"):
            group = "engine" if item.get_closest_marker("engine") else str(path)
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which would scan them a thousand times."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
