"""A provider's model as an engine for one request: recorded, sent, restored, and settled.

Nothing leaves before its entry in the ledger is written, and each entry is closed however the
attempt ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from models.engine import (
    Delta,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineUnavailable,
    GenerationRequest,
    Usage,
)
from models.openai_stream import Chunk, event, head_of, usage_chunk, wants_usage
from serving.accounting.pricing import Tariff
from serving.answering.outbound import OutboundRequest
from serving.domain.calls import GenerationCall
from serving.domain.errors import LeavingRefused
from serving.egress.ledger.chain import Entry
from serving.egress.ledger.errors import LedgerTruncated, LedgerUnavailable
from serving.egress.ledger.ledger import ArrivalFacts, DepartureFacts, EgressLedger
from serving.egress.limits.breaker import ProviderOutcome
from serving.egress.limits.gatekeeper import Gatekeeper, ProviderAttempt
from serving.egress.limits.provider_limits import Denied
from serving.egress.providers.provider import (
    NOT_CONNECTED,
    Deadlines,
    Departure,
    Provider,
    ProviderDenied,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderRequest,
    ProviderUnavailable,
)
from serving.telemetry.meter import outcome_label


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """A provider's model, and how it is reached. `answer_tokens`: the most of one answer."""

    name: str
    model: str
    provider: Provider
    tariff: Tariff
    deadlines: Deadlines
    answer_tokens: int | None = None

    @property
    def route(self) -> str:
        """The route as clients and ledgers see it."""
        return f"overflow:{self.name}"


class ProviderNotReached(EngineUnavailable):
    """There was no connection to the provider, so no byte of the request has left."""


@dataclass(slots=True)
class _Crossing:
    """An attempt at a provider: its entry in the ledger, and how it ended so far."""

    began: float = field(default_factory=time.monotonic)
    entry: Entry | None = None
    usage: Usage | None = None
    head: Chunk = field(default_factory=dict)
    received_bytes: int = 0

    def receive(self, length: int) -> None:
        """Count a piece of the answer."""
        self.received_bytes += length

    @property
    def duration_ms(self) -> int:
        return round((time.monotonic() - self.began) * 1000)


class ProviderEngine:
    """Runs one request at a provider.

    Args:
        provider_model: where.
        call: whose request it is.
        outbound: what may leave of it.
        tokens: prompt and answer at most.
        gatekeeper: of breakers and the provider's limits.
        ledger: of everything that leaves.
        departures: gets its entry there.
    """

    def __init__(
        self,
        provider_model: ProviderModel,
        call: GenerationCall,
        outbound: OutboundRequest,
        *,
        tokens: int,
        gatekeeper: Gatekeeper,
        ledger: EgressLedger,
        departures: list[Entry],
    ) -> None:
        self._target = provider_model
        self._call = call
        self._outbound = outbound
        self._tokens = tokens
        self._gatekeeper = gatekeeper
        self._ledger = ledger
        self._departures = departures

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`."""
        provider_model = self._target
        attempt = await self._gatekeeper.begin(
            provider_model.name, provider_model.model, self._tokens
        )
        if isinstance(attempt, Denied):
            raise LeavingRefused(
                "No provider may be asked now.",
                reason=attempt.reason,
                retry_after_s=attempt.retry_after_s,
            )
        crossing = _Crossing()
        ended: BaseException | None = None
        try:
            async with aclosing(self._deltas(request, attempt, crossing)) as deltas:
                async for delta in deltas:
                    yield delta
            if crossing.usage is not None:
                yield crossing.usage
        except ProviderError as error:
            ended = error
            raise _translated(error) from None
        except BaseException as error:
            ended = error
            raise
        finally:
            await self._settle(attempt, crossing, ended)

    async def _deltas(
        self, request: GenerationRequest, attempt: ProviderAttempt, crossing: _Crossing
    ) -> AsyncGenerator[Delta, None]:
        """The answer as rendered events."""
        chunks = self._chunks(request, attempt, crossing)
        if self._call.continues:
            chunks = self._outbound.noted(chunks)
        async with aclosing(chunks), aclosing(self._outbound.restored(chunks)) as restored:
            async for chunk in restored:
                yield event(chunk)
        if crossing.usage is not None and wants_usage(self._call.body):
            yield event(usage_chunk(crossing.head, crossing.usage))

    async def _chunks(
        self, request: GenerationRequest, attempt: ProviderAttempt, crossing: _Crossing
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the provider's chunks; its usage goes into the crossing."""

        async def gate(departure: Departure) -> None:
            await self._outbound.check(departure.body)
            try:
                crossing.entry = await self._ledger.depart(self._facts(departure), departure.body)
            except (LedgerUnavailable, LedgerTruncated) as error:
                raise LeavingRefused(str(error), reason="ledger_unavailable") from None
            self._departures.append(crossing.entry)

        asked = ProviderRequest(
            request.request_id,
            self._call.kind,
            self._target.model,
            self._outbound.body,
            self._target.deadlines,
            self._target.answer_tokens,
        )
        async with aclosing(
            self._target.provider.generate(
                asked, gate=gate, observe=attempt.hear, received=crossing.receive
            )
        ) as items:
            async for item in items:
                if isinstance(item, Usage):
                    crossing.usage = item
                else:
                    crossing.head = crossing.head or head_of(item)
                    yield item

    def _facts(self, departure: Departure) -> DepartureFacts:
        place = urlsplit(departure.destination)
        return DepartureFacts(
            request_id=self._call.request_id,
            attempt_id=uuid4().hex,
            tenant=self._call.principal.tenant,
            key_id=self._call.principal.key_id,
            provider=self._target.name,
            host=place.netloc,
            path=place.path,
            model=self._target.model,
            privacy=self._call.privacy,
            policy=self._outbound.policy,
            entities={str(kind): count for kind, count in self._outbound.entities.items()},
        )

    async def _settle(
        self, attempt: ProviderAttempt, crossing: _Crossing, ended: BaseException | None
    ) -> None:
        """Close the entry and report the provider's outcome, even if the caller is cancelled."""
        usage = crossing.usage or Usage(0, 0)
        facts = ArrivalFacts(
            outcome=_word(ended),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost_nanos=self._target.tariff.cost_nanos(usage, seconds=0),
            received_bytes=crossing.received_bytes,
            duration_ms=crossing.duration_ms,
        )
        steps = [
            attempt.end(
                _outcome(ended),
                tokens_used=None if crossing.usage is None else usage.total_tokens,
                retry_after_s=getattr(ended, "retry_after_s", None),
            )
        ]
        if crossing.entry is not None:
            steps.append(self._ledger.arrive(crossing.entry, facts))
        await asyncio.shield(asyncio.gather(*steps))


def _translated(error: ProviderError) -> EngineError:
    """An error of a provider as clients may see it: it names no provider."""
    if isinstance(error, ProviderRateLimited | ProviderOverloaded):
        return EngineOverloaded("Too many requests wait for this model; try again later.")
    if error.code == NOT_CONNECTED:
        return ProviderNotReached("The model is not available now; try again later.")
    if isinstance(error, ProviderUnavailable | ProviderDenied | ProviderRejected):
        return EngineUnavailable("The model is not available now; try again later.")
    return EngineFailed("The answer was broken off.")


def _outcome(ended: BaseException | None) -> ProviderOutcome:
    """Return what an attempt tells the breaker about its provider."""
    if ended is None:
        return "completed"
    if isinstance(ended, ProviderRateLimited):
        return "throttled"
    if isinstance(ended, ProviderRejected) or not isinstance(ended, ProviderError):
        return "abandoned"
    return "failed"


def _word(ended: BaseException | None) -> str:
    """Return the ledger's word for how an attempt ended."""
    if isinstance(ended, ProviderError):
        return ended.code or type(ended).__name__
    return outcome_label(ended)
