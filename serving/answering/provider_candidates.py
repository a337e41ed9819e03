"""Which providers may answer a request in our place, and why one did or did not.

Joins what the parts decide: the privacy class, the reasons to leave, what a provider's model can
do, shares, and who is left to try. A request that may not leave is only counted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.engine import EngineError
from serving.admission.fair_queue import FairQueue
from serving.answering.explanations import Considered, Decision, Explanations
from serving.answering.outbound import Outgoing, Scrubber
from serving.answering.provider_engine import ProviderEngine, Target
from serving.answering.resume.continuation import Break, rest_of
from serving.answering.resume.resume_points import Partial, shortened
from serving.answering.targets import Way
from serving.attempts import Exit, Forecast
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
from serving.telemetry.meter import told_outcome


@dataclass(frozen=True, slots=True)
class StandIn:
    """A provider's model that may answer for one of ours."""

    target: Target
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Exits:
    """What there is to leave by, and what decides.

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
        exits: what there is.
    """

    def __init__(self, exits: Exits) -> None:
        self._exits = exits
        self._decisions = {model: OverflowDecision() for model in exits.stand_ins}
        self._policies = Policies(exits.settings)
        self._shares = Shares()
        self._retries = RetryBudget()

    def detour(self, call: GenerationCall, forecast: Forecast) -> ProviderDetour | None:
        """See `Overflow.detour`. Requests that stay here count too: surges are seen by them."""
        stand_ins = self._exits.stand_ins.get(call.model)
        if not stand_ins:
            return None
        self._shares.came(call.model, call.principal.key_id)
        wait_s = self._exits.queues[call.model].predicted_wait_s()
        here = Here(wait_s, ready=self._exits.is_ready(call.model))
        policy = self._policies.of(call.model, call.principal.key_id)
        trigger = self._decisions[call.model].at_arrival(policy, here)
        if call.privacy == "local_only":
            return None
        return ProviderDetour(
            self._exits,
            call,
            forecast,
            policy,
            trigger,
            shares=self._shares,
            retries=self._retries,
        )


class Policies:
    """When requests leave, for each model and key."""

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


class ProviderDetour:
    """The providers that may answer one request, and what became of each."""

    def __init__(
        self,
        exits: Exits,
        call: GenerationCall,
        forecast: Forecast,
        policy: OverflowPolicy,
        trigger: Trigger | None,
        *,
        shares: Shares,
        retries: RetryBudget,
    ) -> None:
        self._exits = exits
        self._call = call
        self._forecast = forecast
        self._policy = policy
        self._trigger = trigger
        self._shares = shares
        self._retries = retries
        self._prompt_tokens = 0
        self._considered: list[Considered] = []
        self._outgoing: Outgoing | None = None
        self.departures: list[Entry] = []
        self.patience_s = exits.settings.first_delta_timeout_s
        self.goes_first = trigger is not None

    def helps(self, error: RingfenceError | EngineError) -> bool:
        """See `Detour.helps`."""
        trigger: Trigger | None = "overloaded" if isinstance(error, Overloaded) else None
        if isinstance(error, EngineError):
            trigger = trigger_of(error)
        if trigger is not None:
            self._trigger = after_failure(self._policy, trigger, fits=trigger != "context_length")
        return trigger is not None and self._trigger is not None

    async def ways(self) -> AsyncGenerator[Way, None]:
        """See `Detour.ways`. Another try after one that left counts as a retry."""
        fitting = await self._fitting()
        if not fitting or not self._may_leave():
            return
        outgoing = self._outgoing = await self._ready(fitting)
        if outgoing is None:
            return
        self._retries.request()
        for place, one in enumerate(fitting):
            if self._may_try(one):
                again = place > 0 or not self.goes_first
                yield self._way(one, outgoing, self._forecast, again=again)

    async def onward(self, broken: Break) -> AsyncGenerator[Way, None]:
        """See `Detour.onward`. Who has broken off is not asked again."""
        there = broken.partial
        if self._trigger is None and not self.helps(broken.error):
            return
        fitting = [
            one for one in await self._fitting(there) if one.target.route not in there.routes
        ]
        if not fitting or not (self.departures or self._may_leave()):
            return
        outgoing = self._outgoing = await self._going_on(fitting, there)
        if outgoing is None:
            return
        for one in fitting:
            if self._may_try(one):
                yield self._way(one, outgoing, rest_of(self._forecast, there), again=True)

    def failed(self, way: Way, error: RingfenceError | EngineError) -> None:
        """See `Detour.failed`."""
        if isinstance(error, LeavingRefused):
            considered = Considered(way.route, error.reason, error.detail)
        else:
            considered = Considered(way.route, told_outcome(error))
        self._considered.append(considered)

    async def close(self) -> None:
        """See `Detour.close`."""
        if self._trigger is None and not self._considered:
            return
        decision = Decision(self._call.privacy, self._trigger, self._considered)
        await self._exits.explanations.keep(
            self._call.principal.tenant, self._call.request_id, decision
        )

    async def _ready(
        self, fitting: Sequence[StandIn], partial: Partial | None = None
    ) -> Outgoing | None:
        """What may leave, with what there is of the answer; None: nothing."""
        try:
            return await self._exits.scrubber.outgoing(
                self._call.body,
                tenant=self._call.principal.tenant,
                privacy=self._call.privacy,
                partial=partial,
            )
        except LeavingRefused as error:
            self._reject([one.target for one in fitting], error.reason, error.detail)
            return None

    async def _going_on(self, fitting: Sequence[StandIn], there: Partial) -> Outgoing | None:
        """The same to go on with. What was said outside is told as it was said there.

        An answer that came from outside and then from here does not leave again: its values are
        restored in it, and nobody says that all of them would be found.
        """
        outside = [route != LOCAL_ROUTE for route in there.routes]
        if not any(outside):
            return await self._ready(fitting, there)
        if all(outside) and self._outgoing is not None:
            return self._outgoing.onward(self._call.body, there.tokens)
        self._reject([one.target for one in fitting], "answered_here_too")
        return None

    def _may_try(self, stand_in: StandIn) -> bool:
        """Whether the request may leave once more, if it did."""
        if not self.departures or self._retries.take():
            return True
        self._reject([stand_in.target], "retry_budget")
        return False

    async def _fitting(self, partial: Partial | None = None) -> list[StandIn]:
        """Stand-ins that can run this request, or go on with its answer, in their order."""
        most = await self._forecast.most_used()
        self._prompt_tokens = most.prompt_tokens
        shape, prompts = self._forecast.shape, max(1, self._forecast.shape.prompts)
        fits = most.prompt_tokens < shape.context_tokens * prompts
        if self._trigger is not None and not self._policy.allows(self._trigger, fits=fits):
            self._reject([one.target for one in self._stand_ins()], "context_length")
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
                self._reject([one.target], reason)
        return fitting

    def _stand_ins(self) -> list[StandIn]:
        """Those that the policy has, in its order."""
        found = self._exits.stand_ins[self._call.model]
        return [one for name in self._policy.providers for one in found if one.target.name == name]

    def _may_leave(self) -> bool:
        """Whether one more request may, of all that came lately."""
        share = self._policy.max_share
        full = self._shares.take(
            self._call.model, self._call.principal.key_id, model_share=share, key_share=share
        )
        if full is not None:
            self._reject([one.target for one in self._stand_ins()], f"share_of_{full}")
        return full is None

    def _reject(self, targets: Sequence[Target], reason: str, detail: str | None = None) -> None:
        self._considered += [Considered(one.route, reason, detail) for one in targets]

    def _way(
        self, stand_in: StandIn, outgoing: Outgoing, forecast: Forecast, *, again: bool
    ) -> Way:
        target = stand_in.target
        offered = stand_in.capabilities
        bounds = [one for one in (forecast.shape.most, offered.max_output_tokens) if one]
        shape = replace(
            forecast.shape,
            context_tokens=offered.context_tokens,
            most=min(bounds, default=None),
        )
        engine = ProviderEngine(
            target,
            self._call,
            outgoing,
            tokens=self._prompt_tokens + shape.completion_tokens(self._prompt_tokens),
            gatekeeper=self._exits.gatekeeper,
            ledger=self._exits.ledger,
            departures=self.departures,
        )
        way_out = Exit(target.route, target.tariff, again=again)
        return Way(engine, replace(forecast, shape=shape, interval=1), way_out)
