"""Providers that may answer a request in place of the local model, and why one did or did not.

Joins what the parts decide: the privacy class, the reasons to leave, what a provider's model can
do, shares, and who is left to try. A request that may not leave is only counted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.engine import EngineError
from serving.admission.fair_queue import FairQueue
from serving.answering.explanations import Considered, Decision, Explanations
from serving.answering.outbound import OutboundRequest, Scrubber
from serving.answering.provider_engine import ProviderEngine, ProviderModel
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
from serving.egress.limits.retry_budget import RetryBudget, Shares
from serving.egress.policy.capabilities import Capabilities, Facts, why_not
from serving.egress.policy.overflow_decision import (
    Here,
    KeyOverflow,
    OverflowDecision,
    OverflowPolicy,
    after_failure,
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
        self._policies = Policies(parts.settings)
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


class Policies:
    """Overflow policies of each model and key."""

    def __init__(self, settings: OverflowSettings) -> None:
        self._settings = settings

    def of(self, model: str, key_id: str) -> OverflowPolicy:
        """The policy for one key's requests for one model."""
        policy = OverflowPolicy.of(self._settings, model)
        for part in (self._settings.per_model.get(model), self._settings.per_key.get(key_id)):
            if part is not None:
                policy = policy.of_key(
                    KeyOverflow(
                        enabled=part.enabled,
                        max_wait_s=part.max_wait_s,
                        max_share=part.max_share,
                        providers=part.providers,
                        triggers=None if part.triggers is None else frozenset(part.triggers),
                    )
                )
        return policy


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
        self.departures: list[Entry] = []
        self.patience_s = parts.settings.first_delta_timeout_s
        self.preferred = trigger is not None

    def handles(self, error: RingfenceError | EngineError) -> bool:
        """See `Fallback.handles`."""
        trigger: Trigger | None = "overloaded" if isinstance(error, Overloaded) else None
        if isinstance(error, EngineError):
            trigger = trigger_of(error)
        if trigger is not None:
            self._trigger = after_failure(self._policy, trigger, fits=trigger != "context_length")
        return trigger is not None and self._trigger is not None

    async def targets(self) -> AsyncGenerator[Target, None]:
        """See `Fallback.targets`. A second try after a departure counts as a retry."""
        fitting = await self._fitting()
        if not fitting or not self._may_leave():
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
        fitting = [
            one
            for one in await self._fitting(there)
            if one.provider_model.route not in there.routes
        ]
        if not fitting or not (self.departures or self._may_leave()):
            return
        outbound = self._outbound = await self._going_on(fitting, there)
        if outbound is None:
            return
        for one in fitting:
            if self._may_try(one):
                yield self._target(one, outbound, rest_of(self._forecast, there), again=True)

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        """See `Fallback.failed`."""
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

    async def _ready(
        self, fitting: Sequence[StandIn], partial: PartialText | None = None
    ) -> OutboundRequest | None:
        """Return what may leave, with the partial answer if there is one; None if nothing may."""
        try:
            return await self._parts.scrubber.outbound(
                self._call.body,
                tenant=self._call.principal.tenant,
                privacy=self._call.privacy,
                partial=partial,
            )
        except LeavingRefused as error:
            self._reject([one.provider_model for one in fitting], error.reason, error.detail)
            return None

    async def _going_on(
        self, fitting: Sequence[StandIn], there: PartialText
    ) -> OutboundRequest | None:
        """Return the request that continues an answer. A provider gets its own text unrestored.

        An answer that came from outside and then from here does not leave again: its values are
        restored in it, and nobody says that all of them would be found.
        """
        outside = [route != LOCAL_ROUTE for route in there.routes]
        if not any(outside):
            return await self._ready(fitting, there)
        if all(outside) and self._outbound is not None:
            return self._outbound.resume(self._call.body, there.tokens)
        self._reject([one.provider_model for one in fitting], "answered_here_too")
        return None

    def _may_try(self, stand_in: StandIn) -> bool:
        """Whether the request may leave once more, if it did."""
        if not self.departures or self._retries.take():
            return True
        self._reject([stand_in.provider_model], "retry_budget")
        return False

    async def _fitting(self, partial: PartialText | None = None) -> list[StandIn]:
        """Stand-ins that can run this request, or go on with its answer, in their order."""
        most = await self._forecast.most_used()
        self._prompt_tokens = most.prompt_tokens
        token_budget, prompts = (
            self._forecast.token_budget,
            max(1, self._forecast.token_budget.prompts),
        )
        fits = most.prompt_tokens < token_budget.context_tokens * prompts
        if self._trigger is not None and not self._policy.allows(self._trigger, fits=fits):
            self._reject([one.provider_model for one in self._stand_ins()], "context_length")
            return []
        tokens = 0 if partial is None else partial.tokens
        facts = Facts.of(
            self._call.kind,
            self._call.body | shortened(self._call.body, tokens),
            prompt_tokens=most.prompt_tokens // prompts + tokens,
            continuation=partial is not None and bool(partial.text),
        )
        fitting = []
        for one in self._stand_ins():
            if (reason := why_not(facts, one.capabilities)) is None:
                fitting.append(one)
            else:
                self._reject([one.provider_model], reason)
        return fitting

    def _stand_ins(self) -> list[StandIn]:
        """Return the candidates that the policy names, in its order."""
        found = self._parts.stand_ins[self._call.model]
        return [
            one
            for name in self._policy.providers
            for one in found
            if one.provider_model.name == name
        ]

    def _may_leave(self) -> bool:
        """Whether one more request may, of all that came lately."""
        share = self._policy.max_share
        full = self._shares.take(
            self._call.model, self._call.principal.key_id, model_share=share, key_share=share
        )
        if full is not None:
            self._reject([one.provider_model for one in self._stand_ins()], f"share_of_{full}")
        return full is None

    def _reject(
        self, targets: Sequence[ProviderModel], reason: str, detail: str | None = None
    ) -> None:
        self._considered += [Considered(one.route, reason, detail) for one in targets]

    def _target(
        self, stand_in: StandIn, outbound: OutboundRequest, forecast: Forecast, *, again: bool
    ) -> Target:
        provider_model = stand_in.provider_model
        offered = stand_in.capabilities
        bounds = [one for one in (forecast.token_budget.most, offered.max_output_tokens) if one]
        token_budget = replace(
            forecast.token_budget,
            context_tokens=offered.context_tokens,
            most=min(bounds, default=None),
        )
        engine = ProviderEngine(
            provider_model,
            self._call,
            outbound,
            tokens=self._prompt_tokens + token_budget.completion_tokens(self._prompt_tokens),
            gatekeeper=self._parts.gatekeeper,
            ledger=self._parts.ledger,
            departures=self.departures,
        )
        external = ExternalRoute(provider_model.route, provider_model.tariff, again=again)
        return Target(engine, replace(forecast, token_budget=token_budget, interval=1), external)
