"""Circuit breakers: what an attempt at a provider tells of it, and when a target is left alone.

A target is a model of a provider. The breakers that all gateways share are in `gate.lua`, by the
same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serving.egress.limits.sliding_window import MovingCount

ProviderOutcome = Literal["completed", "failed", "throttled", "abandoned"]
"""How an attempt ended. `completed`: with the proper end of its answer, and not before. `failed`:
by the provider, in mid-stream too. `throttled`: by a limit of the provider's. `abandoned`: says
nothing of the provider, as when the client went away or the request itself was at fault."""


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """Rules of a breaker: when it opens, and for how long.

    Attributes:
        failures_in_row: it opens at so many,
        failure_rate: or at this part of the outcomes of a window,
        least_outcomes: of which there have to be so many.
        window_s: the window.
        cooldown_s: for how long the first time; twice as long whenever its probe fails.
        max_cooldown_s: the longest, also of what a provider asks for.
    """

    failures_in_row: int = 5
    failure_rate: float = 0.5
    least_outcomes: int = 10
    window_s: float = 60.0
    cooldown_s: float = 5.0
    max_cooldown_s: float = 300.0


RULES = BreakerRules()


class LocalBreakers:
    """Breakers of one gateway, used while the shared ones are unreachable.

    They open by the same rules and never close by themselves: only all gateways together can see to
    it that one probe goes out, and not one of each.

    Args:
        rules: of the shared breakers too.
        clock: seconds that never go back.
    """

    def __init__(self, rules: BreakerRules, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self._rests: dict[str, float] = {}

    def learn(self, target: str, *, is_open: bool) -> None:
        """Take over what the shared breaker says."""
        self._breaker(target).is_open = is_open

    def count(self, target: str, outcome: ProviderOutcome) -> None:
        """Count how an attempt ended."""
        self._breaker(target).count(outcome)

    def let_rest(self, provider: str, asked_s: float | None) -> None:
        """Leave a provider alone for as long as it asked, within bounds."""
        span_s = self._rules.cooldown_s if asked_s is None else asked_s
        until = self._clock() + min(span_s, self._rules.max_cooldown_s)
        self._rests[provider] = max(until, self._rests.get(provider, until))

    def rests_s(self, provider: str) -> float:
        """Return how long a provider is still left alone; 0 if it is not."""
        return max(0.0, self._rests.get(provider, float("-inf")) - self._clock())

    def is_open(self, target: str) -> bool:
        """Whether nothing is sent there."""
        return self._breaker(target).is_open

    def _breaker(self, target: str) -> _Breaker:
        found = self._breakers.get(target)
        if found is None:
            found = self._breakers[target] = _Breaker(self._rules, self._clock)
        return found


class _Breaker:
    """A breaker."""

    def __init__(self, rules: BreakerRules, clock: Callable[[], float]) -> None:
        self._rules = rules
        self._in_row = 0
        self._failed = MovingCount(rules.window_s, clock)
        self._all = MovingCount(rules.window_s, clock)
        self.is_open = False

    def count(self, outcome: ProviderOutcome) -> None:
        """Count how an attempt ended."""
        if outcome not in ("completed", "failed"):
            return
        failed = outcome == "failed"
        self._in_row = self._in_row + 1 if failed else 0
        self._all.add()
        self._failed.add(failed)
        if failed and self._failed_too_often():
            self.is_open = True

    def _failed_too_often(self) -> bool:
        outcomes = self._all.total()
        return self._in_row >= self._rules.failures_in_row or (
            outcomes >= self._rules.least_outcomes
            and self._failed.total() >= self._rules.failure_rate * outcomes
        )
