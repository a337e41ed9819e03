"""The clock of an engine without a model: in each step, every open stream gets a token.

As in continuous batching (Orca, Yu et al., OSDI 2022), all streams get their tokens together. Knows
nothing of HTTP, text or Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Duration of a step: `step_ms + per_stream_ms * open streams`; no pause if both are 0.

    With `per_stream_ms` alone, the token rate of all streams together is constant.
    """

    step_ms: float = 0.0
    per_stream_ms: float = 0.0

    def step_s(self, streams: int) -> float:
        """Return the seconds of a step with that many open streams."""
        return (self.step_ms + self.per_stream_ms * streams) / 1000


class StepClock:
    """Calls every member once per step, in order of joining, until the member is done.

    Steps are due at fixed times and do not drift. If one is late by more than a step, the delay is
    not
    made up for, as in a real engine. Without members there is no cost.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._members: dict[Callable[[], bool], None] = {}
        self._due_s = 0.0
        self._timer: asyncio.Handle | None = None

    def join(self, member: Callable[[], bool]) -> None:
        """Call `member` at each step from the next one on; it returns whether it continues."""
        self._members[member] = None
        if self._timer is None:
            self._due_s = asyncio.get_running_loop().time()
            self._schedule()

    def leave(self, member: Callable[[], bool]) -> None:
        """Stop calling `member`."""
        self._members.pop(member, None)

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        step_s = self._pace.step_s(len(self._members))
        if not step_s:
            self._timer = loop.call_soon(self._step)
            return
        self._due_s = max(self._due_s + step_s, loop.time())
        self._timer = loop.call_at(self._due_s, self._step)

    def _step(self) -> None:
        for member in list(self._members):
            if not member():
                self._members.pop(member, None)
        self._timer = None
        if self._members:
            self._schedule()
