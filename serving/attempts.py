"""One attempt to answer a request: let in, measured, and settled once, however it ends.

Joins what admission, metrics and the usage ledger each need to know. Knows nothing of engines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from models.engine import Usage
from serving.access.admission import Admission, Ask, Most
from serving.access.clock import utc_now
from serving.access.fair_queue import Priority
from serving.access.principal import Principal
from serving.access.reservations import Settlement
from serving.accounting.attempt import Attempt
from serving.accounting.estimate import Shape
from serving.accounting.pricing import Tariff
from serving.quota import Quota
from serving.telemetry.meter import Meter, Record, told_outcome

logger = logging.getLogger("ringfence.attempts")

COUNT_TIMEOUT_S = 1.0
"""For the prompt of an answer that was cut short to be counted."""

NOTHING = Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client asks for beside the body: its turn, and when it stops waiting."""

    priority: Priority = "interactive"
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who asks which model for something, and on which terms."""

    request_id: str
    principal: Principal
    model: str
    terms: Terms = Terms()


async def _no_tokens() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """How much a request may use. `count` counts the tokens of its prompts, where that matters.

    `interval` is the tokens that an event of the answer's stream may carry.
    """

    shape: Shape
    count: Callable[[], Awaitable[int]] = _no_tokens
    interval: int = 1


NO_TOKENS = Forecast(Shape("completion", prompts=0, choices=0, most=0, context_tokens=0))


class Attempts:
    """Begins attempts and sees to their end.

    Args:
        admission: limits, budgets and places.
        meter: counts every request once, refused ones too.
        tariffs: of the served models.
    """

    def __init__(
        self, *, admission: Admission, meter: Meter, tariffs: Mapping[str, Tariff]
    ) -> None:
        self._admission = admission
        self._meter = meter
        self._tariffs = tariffs

    @asynccontextmanager
    async def begin(
        self,
        call: Call,
        *,
        endpoint: str,
        streamed: bool = False,
        forecast: Forecast = NO_TOKENS,
    ) -> AsyncIterator[tuple[Record, Quota]]:
        """The scope of one attempt, with the record to fill and what is left of the limits.

        Raises:
            RingfenceError: it is not let in, or not let go on.
        """
        attempt = Attempt(
            id=uuid4().hex,
            request_id=call.request_id,
            tenant=call.principal.tenant,
            key_id=call.principal.key_id,
            model=call.model,
            endpoint=endpoint,
            started_at=utc_now(),
        )
        record = Record(
            request_id=call.request_id,
            endpoint=endpoint,
            tenant=attempt.tenant,
            key_id=attempt.key_id,
            model=call.model,
            streamed=streamed,
        )
        with self._meter.record(record):
            ask = self._ask(call, attempt, record, forecast)
            close = partial(self._close, attempt, record, forecast)
            async with self._admission.enter(ask, close) as permit:
                record.queued_s = permit.waited_s
                record.admission_s = record.duration_s - permit.waited_s
                yield record, permit.quota
                done_s = record.duration_s
            record.settlement_s = record.duration_s - done_s

    def _ask(self, call: Call, attempt: Attempt, record: Record, forecast: Forecast) -> Ask:
        return Ask(
            id=attempt.id,
            principal=call.principal,
            model=call.model,
            started_at=attempt.started_at,
            facts=attempt.lost(),
            most=partial(self._most, call, record, forecast),
            tokens=forecast.shape.completion_tokens(0) if forecast.shape.most else 1,
            priority=call.terms.priority,
            timeout_s=call.terms.timeout_s,
        )

    async def _most(self, call: Call, record: Record, forecast: Forecast, longest_s: float) -> Most:
        """The most that this request can use, and cost, within the longest that it may take."""
        record.prompt_tokens = prompt_tokens = await forecast.count()
        completion_tokens = forecast.shape.completion_tokens(prompt_tokens)
        cost_nanos = self._tariffs[call.model].most_nanos(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, seconds=longest_s
        )
        return Most(prompt_tokens + completion_tokens, cost_nanos)

    async def _close(
        self, attempt: Attempt, record: Record, forecast: Forecast, error: BaseException | None
    ) -> Settlement:
        """What the attempt used and cost, and its row in the ledger."""
        usage = record.usage
        if usage is not None and not forecast.shape.plausible(usage):
            logger.error("request %s: the engine told absurd usage", record.request_id)
            usage = None
        estimated = usage is None and record.deltas > 0
        if usage is None:
            usage = await _seen(record, forecast)
        record.usage = usage
        ran_s = record.duration_s - record.queued_s
        ran = error is None or record.deltas > 0
        cost_nanos = self._tariffs[record.model].cost_nanos(usage, seconds=ran_s) if ran else 0
        row = attempt.row(
            outcome=told_outcome(error),
            usage=usage,
            duration_s=record.duration_s,
            ttft_s=record.first_delta_s,
            cost_nanos=cost_nanos,
            estimated=estimated,
        )
        return Settlement(usage.total_tokens, cost_nanos, row)


async def _seen(record: Record, forecast: Forecast) -> Usage:
    """The usage of an answer that was cut short; nothing when it had not begun."""
    if record.deltas == 0:
        return NOTHING
    prompt_tokens = record.prompt_tokens
    if prompt_tokens is None:
        with suppress(TimeoutError):
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                prompt_tokens = await forecast.count()
    return forecast.shape.seen(
        events=record.deltas, interval=forecast.interval, prompt_tokens=prompt_tokens or 0
    )
