"""Providers that may answer a request in place of the local model, and why one did or did not.

Joins what the parts decide: the privacy class, the reasons to leave, what a provider's model can
do, shares, and who is left to try. A request that may not leave is only counted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from models.engine import EngineError, EngineTimeout
from serving.accounting.estimate import TokenBudget
from serving.admission.fair_queue import FairQueue
from serving.answering.explanations import Considered, Decision, Explanations
from serving.answering.outbound import OutboundRequest, Scrubber
from serving.answering.provider_engine import ProviderEngine, ProviderModel, ProviderNotReached
from serving.answering.resume.continuation import Break, rest_of
from serving.answering.resume.resume_points import PartialText, shortened
from serving.answering.targets import Target
from serving.attempts import ExternalRoute, Forecast
from serving.config.overflow import OverflowSettings, Trigger
from serving.domain.calls import GenerationCall
from serving.domain.errors import LeavingRefused, Overloaded, RingfenceError
from serving.domain.route import LOCAL_ROUTE
from serving.egress.ledger.chain import Entry
from serving.egress.ledger.ledger import EgressLedger
from serving.egress.limits.gatekeeper import Gatekeeper
from serving.egress.limits.retry_budget import Place, RetryBudget, Shares
from serving.egress.policy.capabilities import Capabilities, Facts, why_not
from serving.egress.policy.overflow_decision import (
    Here,
    OverflowDecision,
    OverflowPolicies,
    OverflowPolicy,
    trigger_of,
)
from serving.telemetry.meter import outcome_label


@dataclass(frozen=True, slots=True)
class StandIn:
    """A provider's model that may answer for one of ours."""

    provider_model: ProviderModel
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class OverflowParts:
    """The parts that overflow needs.

    Attributes:
        settings: when requests leave.
        stand_ins: for each of our models, in the order in which they are tried.
        queues: of our models, for how long a place takes.
        is_ready: whether an engine runs a model.
        scrubber: makes requests ready.
        gatekeeper: of breakers and providers' limits.
        ledger: of everything that leaves.
        explanations: of who answered.
    """

    settings: OverflowSettings
    stand_ins: Mapping[str, Sequence[StandIn]]
    queues: Mapping[str, FairQueue]
    is_ready: Callable[[str], bool]
    scrubber: Scrubber
    gatekeeper: Gatekeeper
    ledger: EgressLedger
    explanations: Explanations


class ProviderOverflow:
    """`Overflow` over the providers of the configuration.

    Args:
        parts: what there is.
    """

    def __init__(self, parts: OverflowParts) -> None:
        self._parts = parts
        self._decisions = {model: OverflowDecision() for model in parts.stand_ins}
        self._policies = OverflowPolicies(parts.settings)
        self._shares = Shares()
        self._retries = RetryBudget()

    def fallback(self, call: GenerationCall, forecast: Forecast) -> ProviderFallback | None:
        """See `Overflow.fallback`. Local requests count too: they show a surge."""
        stand_ins = self._parts.stand_ins.get(call.model)
        if not stand_ins:
            return None
        self._shares.came(call.model, call.principal.key_id)
        wait_s = self._parts.queues[call.model].predicted_wait_s()
        here = Here(wait_s, ready=self._parts.is_ready(call.model))
        policy = self._policies.of(call.model, call.principal.key_id)
        trigger = self._decisions[call.model].at_arrival(policy, here)
        if call.privacy == "local_only":
            return None
        return ProviderFallback(
            self._parts,
            call,
            forecast,
            policy,
            trigger,
            shares=self._shares,
            retries=self._retries,
        )


class ProviderFallback:
    """The providers that may answer one request, and what became of each."""

    def __init__(
        self,
        parts: OverflowParts,
        call: GenerationCall,
        forecast: Forecast,
        policy: OverflowPolicy,
        trigger: Trigger | None,
        *,
        shares: Shares,
        retries: RetryBudget,
    ) -> None:
        self._parts = parts
        self._call = call
        self._forecast = forecast
        self._policy = policy
        self._trigger = trigger
        self._shares = shares
        self._retries = retries
        self._prompt_tokens = 0
        self._considered: list[Considered] = []
        self._outbound: OutboundRequest | None = None
        self._scrubbed: tuple[PartialText | None, OutboundRequest | None] | None = None
        self._not_reached = 0
        self.departures: list[Entry] = []
        self.patience_s = parts.settings.first_delta_timeout_s
        self.preferred = trigger is not None

    def handles(self, error: RingfenceError | EngineError) -> bool:
        """See `Fallback.handles`."""
        self._trigger = self._trigger_after(error)
        return self._trigger is not None

    async def can_take(self, broken: Break | None = None) -> bool:
        """See `Fallback.can_take`. Scrubbing is tried last, since it takes longest."""
        error = EngineTimeout("") if broken is None else broken.error
        trigger = self._trigger or self._trigger_after(error)
        if trigger is None or (not self._left and self._full()):
            return False
        there = None if broken is None else broken.partial
        forecast = self._forecast if there is None else rest_of(self._forecast, there)
        for stand_in, reason in await self._judged(trigger, there):
            if reason is None and await self._would_begin(stand_in, forecast):
                return await self._can_be_sent(there)
        return False

    async def targets(self) -> AsyncGenerator[Target, None]:
        """See `Fallback.targets`. A second try after a departure counts as a retry."""
        fitting = await self._fitting()
        with self._place(fitting) as allowed:
            if not allowed:
                return
            outbound = self._outbound = await self._ready(fitting)
            if outbound is None:
                return
            self._retries.request()
            for place, one in enumerate(fitting):
                if self._may_try(one):
                    again = place > 0 or not self.preferred
                    yield self._target(one, outbound, self._forecast, again=again)

    async def resume(self, broken: Break) -> AsyncGenerator[Target, None]:
        """See `Fallback.resume`. Who has broken off is not asked again."""
        there = broken.partial
        if self._trigger is None and not self.handles(broken.error):
            return
        fitting = await self._fitting(there)
        with self._place(fitting) as allowed:
            if not allowed:
                return
            outbound = self._outbound = await self._going_on(fitting, there)
            if outbound is None:
                return
            for one in fitting:
                if self._may_try(one):
                    yield self._target(one, outbound, rest_of(self._forecast, there), again=True)

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        """See `Fallback.failed`."""
        if isinstance(error, ProviderNotReached):
            self._not_reached += 1
        if isinstance(error, LeavingRefused):
            considered = Considered(target.route, error.reason, error.detail)
        else:
            considered = Considered(target.route, outcome_label(error))
        self._considered.append(considered)

    async def close(self) -> None:
        """See `Fallback.close`."""
        if self._trigger is None and not self._considered:
            return
        decision = Decision(self._call.privacy, self._trigger, self._considered)
        await self._parts.explanations.keep(
            self._call.principal.tenant, self._call.request_id, decision
        )

    def _trigger_after(self, error: RingfenceError | EngineError) -> Trigger | None:
        """Why the request leaves after the local model failed like this; None if it does not."""
        trigger: Trigger | None = "overloaded" if isinstance(error, Overloaded) else None
        if isinstance(error, EngineError):
            trigger = trigger_of(error)
        return trigger if trigger is not None and self._policy.allows(trigger) else None

    def _full(self) -> str | None:
        """Whose share of requests that leave is used up; returns None if there is a place."""
        share = self._policy.max_share
        return self._shares.full(
            self._call.model, self._call.principal.key_id, model_share=share, key_share=share
        )

    @property
    def _left(self) -> bool:
        """Whether a byte of the request has left."""
        return len(self.departures) > self._not_reached

    @contextmanager
    def _place(self, fitting: Sequence[StandIn]) -> Iterator[bool]:
        """Whether the request may leave, of all that came lately.

        The place that it takes is given back if nothing has left at the end of the scope.
        """
        if self._left or not fitting:
            yield bool(fitting)
            return
        share = self._policy.max_share
        place = self._shares.take(
            self._call.model, self._call.principal.key_id, model_share=share, key_share=share
        )
        if not isinstance(place, Place):
            self._reject(self._stand_ins(), f"share_of_{place}")
            yield False
            return
        try:
            yield True
        finally:
            if not self._left:
                place.give_back()

    async def _can_be_sent(self, there: PartialText | None) -> bool:
        """Whether the text may leave as far as its class and content go; see `_going_on`."""
        if there is not None and (outside := _outside(there)) != {False}:
            return outside == {True} and self._outbound is not None
        if self._scrubbed is None or self._scrubbed[0] is not there:
            try:
                self._scrubbed = there, await self._scrub(there)
            except LeavingRefused as error:
                if error.reason == "detector_unavailable":
                    return False
                self._scrubbed = there, None
        return self._scrubbed[1] is not None

    async def _scrub(self, partial: PartialText | None) -> OutboundRequest:
        """What may leave, with what there is of the answer. Raises `LeavingRefused`."""
        known, self._scrubbed = self._scrubbed, None
        if known is not None and known[0] is partial and known[1] is not None:
            return known[1]
        return await self._parts.scrubber.outbound(
            self._call.body,
            tenant=self._call.principal.tenant,
            privacy=self._call.privacy,
            partial=partial,
        )

    async def _ready(
        self, fitting: Sequence[StandIn], partial: PartialText | None = None
    ) -> OutboundRequest | None:
        """Return what may leave, or None if nothing may."""
        try:
            return await self._scrub(partial)
        except LeavingRefused as error:
            self._reject(fitting, error.reason, error.detail)
            return None

    async def _going_on(
        self, fitting: Sequence[StandIn], there: PartialText
    ) -> OutboundRequest | None:
        """Return the request that continues an answer. A provider gets its own text unrestored.

        An answer that came from outside and then from here does not leave again: its values are
        restored in it, and nobody says that all of them would be found.
        """
        outside = _outside(there)
        if outside == {False}:
            return await self._ready(fitting, there)
        if outside == {True} and self._outbound is not None:
            return self._outbound.resume(self._call.body, there.tokens)
        self._reject(fitting, "answered_here_too")
        return None

    def _may_try(self, stand_in: StandIn) -> bool:
        """Whether the request may leave once more, if it did."""
        if not self.departures or self._retries.take():
            return True
        self._reject([stand_in], "retry_budget")
        return False

    async def _fitting(self, partial: PartialText | None = None) -> list[StandIn]:
        """Stand-ins that can run this request, or go on with its answer, in their order."""
        judged = await self._judged(self._trigger, partial)
        for one, reason in judged:
            if reason is not None:
                self._reject([one], reason)
        return [one for one, reason in judged if reason is None]

    async def _judged(
        self, trigger: Trigger | None, partial: PartialText | None
    ) -> list[tuple[StandIn, str | None]]:
        """Stand-ins in their order, each with what it lacks for this request."""
        most = await self._forecast.most_used()
        self._prompt_tokens = most.prompt_tokens
        token_budget = self._forecast.token_budget
        prompts = max(1, token_budget.prompts)
        fits = most.prompt_tokens < token_budget.context_tokens * prompts
        if trigger is not None and not self._policy.allows(trigger, fits=fits):
            return [(one, "context_length") for one in self._stand_ins()]
        tokens = 0 if partial is None else partial.tokens
        facts = Facts.of(
            self._call.kind,
            self._call.body | shortened(self._call.body, tokens),
            prompt_tokens=most.prompt_tokens // prompts + tokens,
            continuation=partial is not None and bool(partial.text),
        )
        tried = () if partial is None else partial.routes
        return [
            (one, why_not(facts, one.capabilities))
            for one in self._stand_ins()
            if one.provider_model.route not in tried
        ]

    def _stand_ins(self) -> list[StandIn]:
        """Return the candidates that the policy names, in its order."""
        found = self._parts.stand_ins[self._call.model]
        return [
            one
            for name in self._policy.providers
            for one in found
            if one.provider_model.name == name
        ]

    def _reject(self, stand_ins: Sequence[StandIn], reason: str, detail: str | None = None) -> None:
        self._considered += [
            Considered(one.provider_model.route, reason, detail) for one in stand_ins
        ]

    def _token_budget(self, stand_in: StandIn, forecast: Forecast) -> TokenBudget:
        """How many tokens the request may use there."""
        offered = stand_in.capabilities
        bounds = [one for one in (forecast.token_budget.most, offered.max_output_tokens) if one]
        return replace(
            forecast.token_budget,
            context_tokens=offered.context_tokens,
            most=min(bounds, default=None),
        )

    def _tokens(self, token_budget: TokenBudget) -> int:
        """Tokens of prompt and answer at most."""
        return self._prompt_tokens + token_budget.completion_tokens(self._prompt_tokens)

    async def _would_begin(self, stand_in: StandIn, forecast: Forecast) -> bool:
        """Whether breaker and limits of a provider let the request through now."""
        there, tokens = (
            stand_in.provider_model,
            self._tokens(self._token_budget(stand_in, forecast)),
        )
        return await self._parts.gatekeeper.would_begin(there.name, there.model, tokens)

    def _target(
        self, stand_in: StandIn, outbound: OutboundRequest, forecast: Forecast, *, again: bool
    ) -> Target:
        provider_model = stand_in.provider_model
        token_budget = self._token_budget(stand_in, forecast)
        engine = ProviderEngine(
            provider_model,
            self._call,
            outbound,
            tokens=self._tokens(token_budget),
            gatekeeper=self._parts.gatekeeper,
            ledger=self._parts.ledger,
            departures=self.departures,
        )
        external = ExternalRoute(provider_model.route, provider_model.tariff, again=again)
        return Target(engine, replace(forecast, token_budget=token_budget, interval=1), external)


def _outside(there: PartialText) -> set[bool]:
    """Of what there is of an answer: whether it came from outside; both if it did in part."""
    return {route != LOCAL_ROUTE for route in there.routes}
