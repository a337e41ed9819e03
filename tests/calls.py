"""What something costs in calls of functions: the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Calls:
    """How many functions were called, those of C included."""

    count: int = 0


@contextmanager
def calls() -> Iterator[Calls]:
    """Count the calls of this thread while the scope lasts."""
    counted = Calls()

    def profile(_frame: FrameType, event: str, _argument: Any) -> None:
        counted.count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield counted
    finally:
        sys.setprofile(before)
