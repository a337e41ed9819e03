"""The clock of an engine without a model: one step a tick, in which every open stream gets a token.

As in continuous batching (Orca, Yu et al., OSDI 2022) the tokens of all streams come out together.
Knows nothing of HTTP, text or Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step takes: `step_ms + per_stream_ms * open streams`. Both 0: no pause at all.

    With `per_stream_ms` alone the tokens a second of all streams together stay the same.
    """

    step_ms: float = 0.0
    per_stream_ms: float = 0.0

    def step_s(self, streams: int) -> float:
        """Seconds of one step with so many streams open."""
        return (self.step_ms + self.per_stream_ms * streams) / 1000


class Steps:
    """Calls every member once a step, in order of joining, until it says that it is done.

    Steps are due at fixed times and do not drift; one that is late by more than a step is not
    made up for, as no engine does. Costs nothing while nobody is a member.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._members: dict[Callable[[], bool], None] = {}
        self._due_s = 0.0
        self._timer: asyncio.Handle | None = None

    def join(self, member: Callable[[], bool]) -> None:
        """Have `member` called at each step from the next on; it returns whether it goes on."""
        self._members[member] = None
        if self._timer is None:
            self._due_s = asyncio.get_running_loop().time()
            self._schedule()

    def leave(self, member: Callable[[], bool]) -> None:
        """Call `member` no more."""
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
