"""Attempts to answer a request: each is admitted, measured, and settled once, however it ends.

Joins what admission, metrics and the usage ledger each need to know. Knows nothing of engines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from models.engine import EngineUnavailable, Usage
from serving.accounting.attempt import Attempt
from serving.accounting.estimate import TokenBudget
from serving.accounting.pricing import Tariff
from serving.admission.admission import Admission, Ask, Most
from serving.admission.demand import Settlement
from serving.domain.calls import Call
from serving.domain.clock import utc_now
from serving.domain.errors import RateLimited
from serving.domain.principal import Principal
from serving.domain.quota import Quota
from serving.domain.route import LOCAL_ROUTE
from serving.telemetry.meter import Meter, Record, outcome_label

logger = logging.getLogger("ringfence.attempts")

COUNT_TIMEOUT_S = 1.0
"""Time to count the prompt of an answer that was cut short."""

UNREAD = "unread"
"""Endpoint and model, in metrics, of a request that is refused before its body is parsed."""

NOTHING = Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True)
class ExternalRoute:
    """An answer by a provider: it takes no place in the local model's queue.

    Attributes:
        route: as the ledger has it, such as `overflow:openai`.
        tariff: what that costs.
        again: whether the request was tried before, and is counted already.
    """

    route: str
    tariff: Tariff
    again: bool


async def _no_tokens() -> int | None:
    return 0


def _no_bound() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """The most that a request may use.

    Attributes:
        token_budget: of its answers.
        count: counts the tokens of its prompts, where that matters; None: they cannot be told.
        bound: no fewer than those, for where they cannot be told.
        interval: tokens that an event of the answer's stream may carry.
    """

    token_budget: TokenBudget
    count: Callable[[], Awaitable[int | None]] = _no_tokens
    bound: Callable[[], int] = _no_bound
    interval: int = 1

    async def most_used(self) -> Usage:
        """The most that the request can use."""
        return self.token_budget.most_used(await self.count(), self.bound)


NO_TOKENS = Forecast(TokenBudget("completion", prompts=0, choices=0, most=0, context_tokens=0))


class Attempts:
    """Begins attempts and sees to their end.

    Args:
        admission: limits, budgets and places.
        meter: counts every request once, refused ones too.
        tariffs: of the served models.
        is_ready: whether an engine runs a model, as far as is known.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        meter: Meter,
        tariffs: Mapping[str, Tariff],
        is_ready: Callable[[str], bool],
    ) -> None:
        self._admission = admission
        self._meter = meter
        self._tariffs = tariffs
        self._is_ready = is_ready

    async def check(self, principal: Principal, request_id: str) -> None:
        """Refuse what limits of the caller forbid already; `begin` decides for the others.

        A refusal is counted as those of `begin` are.

        Raises:
            RateLimited: a limit of the key or its tenant is reached.
        """
        try:
            await self._admission.check(principal)
        except RateLimited:
            unread = Record(
                request_id=request_id,
                endpoint=UNREAD,
                tenant=principal.tenant,
                key_id=principal.key_id,
                model=UNREAD,
                streamed=False,
            )
            with self._meter.record(unread):
                raise

    @asynccontextmanager
    async def begin(
        self,
        call: Call,
        *,
        endpoint: str,
        streamed: bool = False,
        forecast: Forecast = NO_TOKENS,
        external: ExternalRoute | None = None,
        again: bool = False,
    ) -> AsyncIterator[tuple[Record, Quota]]:
        """Open the scope of one attempt: yields the record to fill, and what is left of the limits.

        Args:
            call: who asks for what.
            endpoint: as the ledger and the metrics have it.
            streamed: whether the client gets the answer as it comes.
            forecast: how much it may use.
            external: by which it leaves; None: a model here answers.
            again: whether the request was tried before, and is counted already.

        Raises:
            RingfenceError: it is not let in, or not let go on.
            EngineUnavailable: no engine is there. One that goes on with an answer waits for it.
        """
        attempt = Attempt(
            id=uuid4().hex,
            request_id=call.request_id,
            tenant=call.principal.tenant,
            key_id=call.principal.key_id,
            model=call.model,
            endpoint=endpoint,
            started_at=utc_now(),
            route=LOCAL_ROUTE if external is None else external.route,
        )
        tariff = self._tariffs[call.model] if external is None else external.tariff
        record = Record(
            request_id=call.request_id,
            endpoint=endpoint,
            tenant=attempt.tenant,
            key_id=attempt.key_id,
            model=call.model,
            streamed=streamed,
        )
        with self._meter.record(record):
            run = _Run(attempt, tariff, record, forecast)
            async with self._admission.enter(
                _ask(call, run, external, again=again), run.close
            ) as permit:
                record.queued_s = permit.waited_s
                record.admission_s = record.duration_s - permit.waited_s
                if external is None and not again and not self._is_ready(call.model):
                    raise EngineUnavailable("The model is not available now; try again later.")
                yield record, permit.quota
                done_s = record.duration_s
            record.settlement_s = record.duration_s - done_s


def _ask(call: Call, run: _Run, external: ExternalRoute | None, *, again: bool) -> Ask:
    token_budget = run.forecast.token_budget
    return Ask(
        id=run.attempt.id,
        principal=call.principal,
        model=call.model,
        started_at=run.attempt.started_at,
        facts=run.attempt.lost(),
        most=run.most,
        tokens=token_budget.completion_tokens(0) if token_budget.most else 1,
        priority=call.options.priority,
        timeout_s=call.options.timeout_s,
        placed=external is None,
        again=again or (external is not None and external.again),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """A running attempt: what it may use, and what it has done."""

    attempt: Attempt
    tariff: Tariff
    record: Record
    forecast: Forecast

    async def most(self, longest_s: float) -> Most:
        """The most that it can use, and cost, within the longest that it may take."""
        most = await self.forecast.most_used()
        self.record.prompt_tokens = most.prompt_tokens
        return Most(most.total_tokens, self.tariff.most_nanos(most, seconds=longest_s))

    def close(self, error: BaseException | None) -> Settlement | Awaitable[Settlement]:
        """Return what it used and cost, and its row in the ledger."""
        usage = self.record.usage
        if usage is None and self.record.deltas == 0:
            return self._settlement(NOTHING, error)
        if usage is not None and self.forecast.token_budget.plausible(usage):
            return self._settlement(usage, error)
        if usage is not None:
            logger.error("request %s: the engine told absurd usage", self.record.request_id)
        return self._estimated(error)

    async def _estimated(self, error: BaseException | None) -> Settlement:
        """Return the same, estimated from the deltas that were seen."""
        usage = NOTHING if self.record.deltas == 0 else await self._seen()
        return self._settlement(usage, error, estimated=self.record.deltas > 0)

    def _settlement(
        self, usage: Usage, error: BaseException | None, *, estimated: bool = False
    ) -> Settlement:
        record = self.record
        record.usage = usage
        ran_s = record.duration_s - record.queued_s
        ran = error is None or record.deltas > 0
        cost_nanos = self.tariff.cost_nanos(usage, seconds=ran_s) if ran else 0
        row = self.attempt.row(
            outcome=outcome_label(error),
            usage=usage,
            duration_s=record.duration_s,
            ttft_s=record.first_delta_s,
            cost_nanos=cost_nanos,
            estimated=estimated,
            receipt=record.receipt,
        )
        return Settlement(usage.total_tokens, cost_nanos, row)

    async def _seen(self) -> Usage:
        """The usage of an answer that was cut short."""
        prompt_tokens = self.record.prompt_tokens
        if prompt_tokens is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNT_TIMEOUT_S):
                    prompt_tokens = (await self.forecast.most_used()).prompt_tokens
        return self.forecast.token_budget.seen(
            events=self.record.deltas,
            interval=self.forecast.interval,
            prompt_tokens=prompt_tokens or 0,
        )
