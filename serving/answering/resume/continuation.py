"""An answer that goes on when who gives it breaks off. One attempt runs at a time.

Knows nothing of models and providers: whoever uses it says who goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from models.engine import Delta, EngineError, Usage
from serving.answering.resume.partial_answer import PartialAnswer
from serving.answering.resume.resume_points import PartialText, ResumePoint
from serving.attempts import Forecast
from serving.domain.quota import Quota
from serving.telemetry.meter import Record

MAX_CONTINUATIONS = 3
"""Continuations of one request, failed ones included."""

PAUSE_S = 0.5
"""Pause before all targets are tried once more: a dead replica may still be thought alive."""


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt that has begun: its answer, where that comes from, and what it uses."""

    deltas: AsyncGenerator[Delta, None]
    quota: Quota
    route: str
    record: Record


@dataclass(frozen=True, slots=True)
class Break:
    """The place where an answer broke off, and the reason. `number` counts from 1."""

    error: EngineError
    partial: PartialText
    number: int


Next = tuple[RunningAttempt, ResumePoint]
Onward = Callable[[AsyncExitStack, Break], Awaitable[Next | None]]
"""Begins an attempt that continues the answer, within a stack. Returns None if nobody can."""


class Continuation:
    """The scope of an answer. Left, it settles the attempt that runs.

    Args:
        answer: what its client gets.
        resume: finds who goes on.
    """

    def __init__(self, answer: PartialAnswer, resume: Onward) -> None:
        self._answer = answer
        self._onward = resume
        self.stack = AsyncExitStack()
        """Holds the running attempt."""
        self.attempt: RunningAttempt | None = None
        """The running attempt; None once it is settled."""
        self.ended = False
        """Whether the client has the whole answer."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self.stack.__aexit__(kind, error, traceback)

    async def deltas(self, first: RunningAttempt) -> AsyncGenerator[Delta, None]:
        """The whole answer, which `first` began.

        Raises:
            EngineError: it broke off, and nobody went on.
            RingfenceError: it may not go on.
        """
        self.attempt = attempt = first
        number = 0
        self._answer.goes_on(first.route, ResumePoint(0, 0))
        while True:
            try:
                async for delta in attempt.deltas:
                    if told := self._answer.passed(delta):
                        yield told
                self._answer.used(_usage(attempt))
                break
            except EngineError as error:
                if not self._answer.helped(error):
                    raise
                await self._leave(error)
                self._answer.used(_usage(attempt))
                if self._answer.finished:  # All that is missing is what it used.
                    break
                attempt, number = await self._after(error, attempt, number)
        if last := self._answer.end():
            yield last
        self.ended = True

    async def _after(
        self, error: EngineError, broken: RunningAttempt, number: int
    ) -> tuple[RunningAttempt, int]:
        """The next attempt, and which it is. Raises `error` when there is none."""
        partial = self._answer.partial(_usage(broken))
        while number < MAX_CONTINUATIONS:
            number += 1
            if found := await self._onward(self.stack, Break(error, partial, number)):
                attempt, resume_point = found
                self._answer.goes_on(attempt.route, resume_point)
                self.attempt = attempt
                return attempt, number
            if number < MAX_CONTINUATIONS:
                await asyncio.sleep(PAUSE_S)
        raise error

    async def _leave(self, error: EngineError) -> None:
        """Settle the attempt that failed. Raises what else it turns out to have ended by."""
        stack, self.stack, self.attempt = self.stack, AsyncExitStack(), None
        await stack.__aexit__(type(error), error, error.__traceback__)


def _usage(attempt: RunningAttempt) -> Usage:
    """Return an attempt's usage; if it broke off, the usage that it was settled with."""
    return attempt.record.usage or Usage(0, 0)


def rest_of(forecast: Forecast, partial: PartialText) -> Forecast:
    """Return the forecast of a request that continues an answer."""
    tokens, token_budget = partial.tokens, forecast.token_budget
    most = None if token_budget.most is None else max(1, token_budget.most - tokens)

    async def count() -> int | None:
        prompt_tokens = await forecast.count()
        return None if prompt_tokens is None else prompt_tokens + tokens

    return replace(
        forecast,
        token_budget=replace(token_budget, most=most),
        count=count,
        bound=lambda: forecast.bound() + tokens,
    )
