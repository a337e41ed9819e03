"""Routing of generations: to the local model or, where class and policy allow, to a provider.

Knows nothing of providers. `Overflow` tells which other ways a request has, and which of them go on
with an answer that broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from models.engine import (
    Delta,
    Engine,
    EngineError,
    EngineFailed,
    EngineTimeout,
    GenerationRequest,
    Usage,
)
from serving.answering.resume.continuation import Break, Continuation, Next, RunningAttempt, rest_of
from serving.answering.resume.partial_answer import PartialAnswer
from serving.answering.resume.resume_points import ResumePoint, resumed
from serving.answering.targets import Fallback, GeneratedAnswer, Overflow, ReceiptIssuer, Target
from serving.attempts import Attempts, Forecast
from serving.domain.calls import GenerationCall
from serving.domain.errors import (
    AccessError,
    DeadlineExceeded,
    Overloaded,
    RingfenceError,
    ServerStopping,
)
from serving.domain.route import Origin
from serving.domain.time_left import TimeLeft
from serving.telemetry.meter import Record

__all__ = ["GeneratedAnswer", "GenerationCall", "Routing", "Target"]

ASK_AGAIN_S = 5.0
"""For how long the local model goes on before it is asked again who else can take its request."""

_FINAL = (AccessError, DeadlineExceeded, ServerStopping)
"""After these errors no other target is tried."""


@dataclass(frozen=True, slots=True, repr=False)
class _Asked:
    """A request, and its targets."""

    call: GenerationCall
    request: GenerationRequest
    here: Target
    fallback: Fallback | None

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        """Note the failure of a target for the explanation."""
        if self.fallback is not None:
            self.fallback.failed(target, error)


class Routing:
    """Finds who answers.

    Args:
        attempts: lets requests in, and settles what they used.
        engines: of the models here that generate.
        overflow: the other ways; None: nothing ever leaves.
        receipt_issuer: of receipts; None: none are given.
    """

    def __init__(
        self,
        *,
        attempts: Attempts,
        engines: Mapping[str, Engine],
        overflow: Overflow | None = None,
        receipt_issuer: ReceiptIssuer | None = None,
    ) -> None:
        self._attempts = attempts
        self._engines = engines
        self._overflow = overflow
        self._receipt_issuer = receipt_issuer

    @asynccontextmanager
    async def answer(
        self, call: GenerationCall, request: GenerationRequest, forecast: Forecast
    ) -> AsyncIterator[GeneratedAnswer]:
        """The scope of an answer. Its first delta is there when the scope is entered.

        Whatever fails before that is not seen by the client while another way is left.

        Raises:
            RingfenceError, EngineError: of the model here, when no other way helped.
        """
        here = Target(self._engines[call.model], forecast)
        fallback = None if self._overflow is None else self._overflow.fallback(call, forecast)
        asked = _Asked(call, request, here, fallback)
        async with AsyncExitStack() as stack:
            if fallback is not None:
                stack.push_async_callback(fallback.close)
            if call.continues:
                yield await self._continued(stack, asked)
            else:
                attempt = await self._first(stack, asked)
                given = partial(self._given, asked, attempt)
                yield GeneratedAnswer(attempt.deltas, attempt.quota, given)

    async def _first(self, stack: AsyncExitStack, asked: _Asked) -> RunningAttempt:
        """The first way that has a delta."""
        fallback = asked.fallback
        if fallback is None:
            return await stack.enter_async_context(self._run(asked, asked.here))
        if fallback.preferred and (found := await self._away(stack, asked, fallback.targets())):
            return found
        try:
            async with _patience(None if fallback.preferred else fallback):
                return await stack.enter_async_context(self._run(asked, asked.here))
        except (Overloaded, EngineError) as error:
            fallback.failed(asked.here, error)
            if fallback.preferred or not fallback.handles(error):
                raise
            if found := await self._away(stack, asked, fallback.targets()):
                return found
            raise

    async def _away(
        self, stack: AsyncExitStack, asked: _Asked, targets: AsyncGenerator[Target, None]
    ) -> RunningAttempt | None:
        """The first of some other ways that has a delta."""
        async with aclosing(targets):
            async for target in targets:
                try:
                    return await stack.enter_async_context(self._run(asked, target))
                except (RingfenceError, EngineError) as error:
                    asked.failed(target, error)
                    if isinstance(error, _FINAL):
                        raise
        return None

    async def _continued(self, stack: AsyncExitStack, asked: _Asked) -> GeneratedAnswer:
        """An answer that goes on when it breaks off. Its scopes are in the stack.

        Where something may leave for it after its first delta, its receipt waits for its end.
        """
        request = asked.request
        asked = replace(
            asked, request=replace(request, body=request.body | {"return_token_ids": True})
        )
        answer = PartialAnswer(asked.call.body)
        continuation = Continuation(
            answer, partial(self._onward, asked, TimeLeft(asked.call.options))
        )
        await stack.enter_async_context(continuation)
        first = await self._first(continuation.stack, asked)
        origin = Origin(asked.call.privacy, first.route)

        async def deltas() -> AsyncGenerator[Delta, None]:
            async with aclosing(continuation.deltas(first)) as answered:
                async for delta in answered:
                    yield delta
            given()

        def given() -> Origin:
            nonlocal origin
            attempt, is_known = continuation.attempt, continuation.ended or asked.fallback is None
            if attempt is not None and is_known and origin.receipt is None:
                origin = self._given(asked, attempt)
            return origin

        told = await stack.enter_async_context(aclosing(deltas()))
        return GeneratedAnswer(told, first.quota, given)

    async def _onward(
        self, asked: _Asked, left: TimeLeft, stack: AsyncExitStack, broken: Break
    ) -> Next | None:
        """Find who continues an answer: the local model first, unless providers were preferred.

        Raises:
            AccessError, DeadlineExceeded, ServerStopping: it may not go on.
        """
        asked = replace(asked, call=replace(asked.call, options=left.options()))
        away_first = asked.fallback is not None and asked.fallback.preferred
        if away_first and (found := await self._on_away(stack, asked, broken)):
            return found
        if found := await self._on_here(stack, asked, broken, last=away_first):
            return found
        return None if away_first else await self._on_away(stack, asked, broken)

    async def _on_here(
        self, stack: AsyncExitStack, asked: _Asked, broken: Break, *, last: bool
    ) -> Next | None:
        """Continue on the local model: another replica, or the same one after a restart.

        It has the time that an engine may take if it is the `last` that is asked.
        """
        fallback, left_s = None if last else asked.fallback, asked.call.options.timeout_s
        try:
            async with _patience(fallback, broken, left_s=left_s):
                return await self._resumed(stack, asked, broken)
        except (RingfenceError, EngineError) as error:
            asked.failed(asked.here, error)
            if isinstance(error, _FINAL):
                raise
        return None

    async def _resumed(self, stack: AsyncExitStack, asked: _Asked, broken: Break) -> Next:
        engine = self._engines[asked.call.model]
        request, resume_point = await resumed(
            engine, asked.request, broken.partial, number=broken.number
        )
        forecast = rest_of(asked.here.forecast, broken.partial)
        token_budget = replace(forecast.token_budget, kind=request.kind)
        here = Target(engine, replace(forecast, token_budget=token_budget), again=True)
        asked = replace(asked, request=request)
        return await stack.enter_async_context(self._run(asked, here)), resume_point

    async def _on_away(self, stack: AsyncExitStack, asked: _Asked, broken: Break) -> Next | None:
        """Somebody else goes on."""
        if asked.fallback is None:
            return None
        attempt = await self._away(stack, asked, asked.fallback.resume(broken))
        there = broken.partial
        return None if attempt is None else (attempt, ResumePoint(len(there.text), there.tokens))

    @asynccontextmanager
    async def _run(self, asked: _Asked, target: Target) -> AsyncIterator[RunningAttempt]:
        """Run one attempt: the scope owns its reservation, its slot and the engine's stream."""
        call = asked.call
        async with (
            self._attempts.begin(
                call,
                endpoint=call.kind,
                streamed=call.stream,
                forecast=target.forecast,
                external=target.external,
                again=target.again,
            ) as (record, quota),
            aclosing(target.engine.generate(asked.request)) as items,
        ):
            first = await anext(items, None)
            if not isinstance(first, bytes):
                raise EngineFailed("The model's engine sent no answer.")
            async with aclosing(_metered(first, items, record)) as deltas:
                yield RunningAttempt(deltas, quota, target.route, record)

    def _given(self, asked: _Asked, attempt: RunningAttempt) -> Origin:
        """Return the origin of an answer that is now given. Its attempt keeps the receipt."""
        call, record = asked.call, attempt.record
        if self._receipt_issuer is not None:
            departures = () if asked.fallback is None else asked.fallback.departures
            record.receipt = self._receipt_issuer.receipt(call, attempt.route, departures)
        return Origin(call.privacy, attempt.route, record.receipt)


@asynccontextmanager
async def _patience(
    fallback: Fallback | None, broken: Break | None = None, *, left_s: float | None = None
) -> AsyncIterator[None]:
    """The time in which the local model has to begin: `left_s`, or as long as an engine may take.

    After `patience_s` it ends as soon as the fallback can take the request.

    Raises:
        EngineTimeout: the time was over.
    """
    try:
        async with asyncio.timeout(left_s) as limit, AsyncExitStack() as stack:
            if fallback is not None:
                stack.callback(_watch(limit, fallback, broken))
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise EngineTimeout("The model took too long to begin.") from None


def _watch(
    limit: asyncio.Timeout, fallback: Fallback, broken: Break | None
) -> Callable[[], object]:
    """Begin to look, when its patience is over, for who can take the request; what ends that."""
    watching: list[asyncio.Task[None]] = []

    async def give_up() -> None:
        while not await fallback.can_take(broken):  # noqa: ASYNC110  Nobody tells when it can.
            await asyncio.sleep(min(fallback.patience_s, ASK_AGAIN_S))
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())

    def begin() -> None:
        watching.append(asyncio.create_task(give_up()))
        watching[0].add_done_callback(_look_at)

    timer = asyncio.get_running_loop().call_later(fallback.patience_s, begin)

    def end() -> None:
        timer.cancel()
        for task in watching:
            task.cancel()

    return end


def _look_at(task: asyncio.Task[None]) -> None:
    """An unexpected error only means that nobody takes over: its text may hold a prompt."""
    if not task.cancelled():
        task.exception()


async def _metered(
    first: Delta, items: AsyncGenerator[Delta | Usage, None], record: Record
) -> AsyncGenerator[Delta, None]:
    """The deltas of `items`; the usage record goes to the meter."""
    record.delta(first)
    yield first
    async for item in items:
        if isinstance(item, Usage):
            record.usage = item
        else:
            record.delta(item)
            yield item
    if record.usage is None:
        raise EngineFailed("The answer ended without a usage record.")
