"""Budgets of departures and retries, as shares of the requests that came.

Of one gateway. Where each keeps to a share, all of them together do. Knows no providers.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from serving.egress.limits.sliding_window import MovingCount

WINDOW_S = 60.0

OVERFLOW_FLOOR = 2
"""Requests that may leave in a window, however few came."""

RETRY_SHARE = 0.2
RETRY_FLOOR = 3
"""Retries that are always allowed: one request can be tried everywhere."""

MAX_SUBJECTS = 10_000
"""Models and keys whose requests are counted; the one unheard of for longest is dropped first."""


class Allowance:
    """Some of what comes may be taken: a share of it in a window, and never less than a floor.

    At each taking, `taken <= max(floor, share * came)` holds for the window that ends then.
    """

    __slots__ = ("_came", "_floor", "_taken")

    def __init__(
        self, *, floor: int, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._floor = floor
        self._came = MovingCount(window_s, clock)
        self._taken = MovingCount(window_s, clock)

    def came(self) -> None:
        """Count one more request."""
        self._came.add()

    def has_room(self, share: float) -> bool:
        """Whether one more may be taken."""
        return self._taken.total() < max(self._floor, int(share * self._came.total()))

    def take(self) -> int:
        """Take one; its number for `give_back`."""
        return self._taken.add()

    def give_back(self, taken: int) -> None:
        """Undo a taking."""
        self._taken.remove(taken)


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place among those of its model, and of its key, that leave."""

    _taken: Sequence[tuple[Allowance, int]]

    def give_back(self) -> None:
        """For a request of which nothing has left. To be called once."""
        for allowance, taken in self._taken:
            allowance.give_back(taken)


class Shares:
    """Counts the requests of each model, and of each key for it, that leave.

    Args:
        window_s: over which they are counted.
        floor: see `OVERFLOW_FLOOR`.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        window_s: float = WINDOW_S,
        floor: int = OVERFLOW_FLOOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._floor = floor
        self._clock = clock
        self._allowances: OrderedDict[tuple[str, str | None], Allowance] = OrderedDict()

    def came(self, model: str, key: str) -> None:
        """A request came, whether it may leave or not."""
        for one in self._both(model, key):
            one.came()

    def take(
        self, model: str, key: str, *, model_share: float, key_share: float
    ) -> Place | Literal["model", "key"]:
        """Take a place among those that leave; or whose share is used up, and nothing is taken."""
        if full := self.full(model, key, model_share=model_share, key_share=key_share):
            return full
        return Place([(one, one.take()) for one in self._both(model, key)])

    def full(
        self, model: str, key: str, *, model_share: float, key_share: float
    ) -> Literal["model", "key"] | None:
        """Whose share is used up; returns None if there is a place."""
        of_model, of_key = self._both(model, key)
        if not of_model.has_room(model_share):
            return "model"
        return None if of_key.has_room(key_share) else "key"

    def _both(self, model: str, key: str) -> tuple[Allowance, Allowance]:
        return self._allowance((model, None)), self._allowance((model, key))

    def _allowance(self, subject: tuple[str, str | None]) -> Allowance:
        found = self._allowances.get(subject)
        if found is None:
            found = Allowance(floor=self._floor, window_s=self._window_s, clock=self._clock)
            self._allowances[subject] = found
            if len(self._allowances) > MAX_SUBJECTS:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(subject)
        return found


class RetryBudget:
    """Bounds the attempts at providers that follow a failed one, so that no outage multiplies load.

    In a window there are at most `1 + RETRY_SHARE` attempts for a request, and `RETRY_FLOOR` more
    (Google, "Site Reliability Engineering", chapter 22). The first attempt at a provider is none of
    them, also when the model here was tried before.
    """

    def __init__(
        self,
        *,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowance = Allowance(floor=RETRY_FLOOR, window_s=window_s, clock=clock)

    def request(self) -> None:
        """A request is tried for the first time."""
        self._allowance.came()

    def take(self) -> bool:
        """Whether another attempt may be made; it counts then."""
        if not self._allowance.has_room(RETRY_SHARE):
            return False
        self._allowance.take()
        return True
