"""A count over a sliding window, in constant memory."""

from __future__ import annotations

from collections.abc import Callable

PARTS = 12
"""Parts of a window. The oldest is dropped at once, so a window has one part more."""


class MovingCount:
    """Counts over the last `window_s` seconds, and up to a twelfth more.

    Args:
        window_s: above 0.
        clock: seconds that never go back.
    """

    __slots__ = ("_clock", "_counts", "_part_s", "_total")

    def __init__(self, window_s: float, clock: Callable[[], float]) -> None:
        self._part_s = window_s / PARTS
        self._clock = clock
        self._counts: dict[int, int] = {}
        self._total = 0

    def add(self, count: int = 1) -> int:
        """Count some that are there now; the number of the part in which they are counted."""
        part = self._move()
        self._counts[part] = self._counts.get(part, 0) + count
        self._total += count
        return part

    def remove(self, part: int) -> None:
        """Count one less in a part. Nothing happens if the window has left that part behind."""
        self._move()
        if part in self._counts:
            self._counts[part] -= 1
            self._total -= 1

    def total(self) -> int:
        """The count over the window."""
        self._move()
        return self._total

    def _move(self) -> int:
        """Drop old parts. Returns the number of the present part."""
        part = int(self._clock() / self._part_s)
        while self._counts and (oldest := next(iter(self._counts))) < part - PARTS:
            self._total -= self._counts.pop(oldest)
        return part
