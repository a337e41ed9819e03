"""How long a test has run: what a time that it is told may be short of."""

from __future__ import annotations

import time

CLOCKS_S = 0.05
"""By how much two clocks of one machine may differ, rounding included."""


class Elapsed:
    """Measures time from when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def short_of(self, told_s: float, exact_s: float) -> bool:
        """Whether `told_s` is `exact_s`, less at most the time since this was made."""
        return exact_s - self.seconds - CLOCKS_S <= told_s <= exact_s + CLOCKS_S
