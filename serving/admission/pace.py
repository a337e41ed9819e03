"""The pace at which places in a queue become free, and what it says about a wait."""

from __future__ import annotations

from dataclasses import dataclass

STALE_S = 60.0
"""Age from which the pace of releases says nothing about a queue that begins to fill again."""


@dataclass(slots=True)
class Pace:
    """The pace of releases: means over the last `window` of them while no slot was free.

    Without demand the interval says how rarely anybody asks, so it is not measured then.
    """

    window: int
    interval_s: float = 0.0
    cost: float = 1.0
    samples: int = 0
    busy_since: float | None = None
    measured_at: float = float("-inf")

    def busy(self, now: float) -> None:
        """Note that from now until the next release there is more demand than slots."""
        if self.busy_since is None:
            self.busy_since = now
            if now - self.measured_at > STALE_S:
                self.samples = 0
                self.interval_s = 0.0

    def released(self, now: float, cost: float) -> None:
        """A request ended."""
        if self.busy_since is None:
            return
        self.samples = min(self.samples + 1, self.window)
        self.interval_s += (now - self.busy_since - self.interval_s) / self.samples
        self.cost += (max(cost, 1e-9) - self.cost) / self.samples
        self.measured_at = now
        self.busy_since = None

    def wait_s(self, ahead: float, now: float) -> float:
        """Predict the wait for a turn after `ahead` others; a stall counts from its beginning."""
        elapsed_s = 0.0 if self.busy_since is None else now - self.busy_since
        return ahead * self.interval_s + max(self.interval_s, elapsed_s)
