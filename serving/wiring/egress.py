"""Egress of a gateway, wired: providers, the scrubber before them, and the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr

from models.background import BackgroundLoop
from serving.accounting.pricing import Tariff
from serving.admission.fair_queue import FairQueue
from serving.answering.explanations import Explanations
from serving.answering.outbound import Scrubber
from serving.answering.provider_candidates import OverflowParts, ProviderOverflow, StandIn
from serving.answering.provider_engine import ProviderModel
from serving.answering.receipts import SigningIssuer
from serving.config import Settings
from serving.config.overflow import PrivacySettings, ProviderModelSettings, ProviderSettings
from serving.egress.ledger.appender import CheckpointRules
from serving.egress.ledger.ledger import EgressLedger
from serving.egress.ledger.receipts import Receipts
from serving.egress.ledger.signing import Signer, key_file
from serving.egress.limits.gatekeeper import Gatekeeper
from serving.egress.limits.provider_limits import ProviderLimits
from serving.egress.policy.capabilities import Capabilities
from serving.egress.providers.provider import Deadlines, Provider
from serving.egress.providers.transport import Connections
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.policy import PrivacyPolicy
from serving.privacy.spans import Detector
from serving.ray_cluster.engine_watch import EngineWatch
from serving.storage.database import Database
from serving.storage.leftovers import Leftover, Leftovers
from serving.storage.valkey import PREFIX, Valkey

SCRUB_TIMEOUTS = 4
"""Scrub time-out of a request, as a multiple of that for 1,000 characters."""


@dataclass(frozen=True, slots=True)
class EgressParts:
    """Everything a gateway needs to send requests to providers. Without any, only the ledger."""

    ledger: EgressLedger
    receipt_issuer: SigningIssuer | None
    overflow: ProviderOverflow | None
    scrubber: Scrubber | None
    gatekeeper: Gatekeeper
    engines: EngineWatch
    providers: Sequence[Provider]

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        database: Database,
        valkey: Valkey,
        secret: SecretStr,
        detector: Detector | None,
        queues: Mapping[str, FairQueue],
        engines: EngineWatch,
        explanations: Explanations,
        prefix: str = PREFIX,
    ) -> Self:
        """Wire everything; nothing runs yet. Without providers there is no `detector`.

        Raises:
            OSError, SigningKeyUnsafe: the signing key cannot be read or made.
        """
        signer = Signer.load_or_create(key_file(settings))
        rules = CheckpointRules(
            signer, origin=settings.ledger.origin, file=settings.ledger.checkpoint_file
        )
        leftovers = Leftovers.of(settings.home, "egress", what="entries of the egress ledger")
        ledger = EgressLedger(
            database, secret.get_secret_value().encode(), rules, leftovers=leftovers
        )
        receipt_issuer = SigningIssuer(Receipts(signer)) if settings.ledger.receipts else None
        limits = {one.name: ProviderLimits.of(one) for one in settings.overflow.providers}
        gatekeeper = Gatekeeper(valkey, limits, prefix=f"{prefix}egress:")
        providers = {one.name: _provider(one) for one in settings.overflow.providers}
        overflow = scrubber = None
        if detector is not None:
            scrubber = _scrubber(settings.privacy, secret, detector)
            parts = OverflowParts(
                settings=settings.overflow,
                stand_ins=_stand_ins(settings.overflow.providers, providers),
                queues=queues,
                is_ready=engines.ready,
                scrubber=scrubber,
                gatekeeper=gatekeeper,
                ledger=ledger,
                explanations=explanations,
            )
            overflow = ProviderOverflow(parts)
        return cls(
            ledger,
            receipt_issuer,
            overflow,
            scrubber,
            gatekeeper,
            engines,
            tuple(providers.values()),
        )

    @property
    def loops(self) -> tuple[BackgroundLoop, ...]:
        """What runs beside requests: the watch, leases, the signing of the ledger's head."""
        return (self.engines.loop, self.gatekeeper.loop, *self.ledger.loops)

    def start(self) -> None:
        """Begin what runs beside requests."""
        self.engines.loop.start()
        self.ledger.start()
        if self.overflow is not None:
            self.gatekeeper.start()

    async def close(self) -> tuple[list[Leftover], bool]:
        """Stop. Returns what could not be written, and whether the ledger's head is signed."""
        await asyncio.gather(*(one.aclose() for one in self.providers))
        await self.engines.loop.close()
        await self.gatekeeper.close()
        return await self.ledger.close()


def operator_rules(settings: PrivacySettings) -> OperatorRules:
    """The operator's own patterns and words. Raises `UnusableRule`."""
    return OperatorRules.of(settings.patterns, settings.words)


def _scrubber(settings: PrivacySettings, secret: SecretStr, detector: Detector) -> Scrubber:
    return Scrubber(
        detector,
        rules=operator_rules(settings),
        secret=secret,
        default=PrivacyPolicy.of(settings.actions, settings.allow_languages),
        tenants={
            tenant: PrivacyPolicy.of({**settings.actions, **own}, settings.allow_languages)
            for tenant, own in settings.tenants.items()
        },
        timeout_s=SCRUB_TIMEOUTS * settings.detector_timeout_s,
    )


def _provider(settings: ProviderSettings) -> Provider:
    """A provider's client. They take two seconds and 100 MB to import: only where there is one."""
    return _anthropic(settings) if settings.kind == "anthropic" else _openai(settings)


def _anthropic(settings: ProviderSettings) -> Provider:
    from serving.egress.providers import anthropic_provider as anthropic  # noqa: PLC0415

    destination = anthropic.anthropic_destination(
        settings.api_key.get_secret_value(),
        settings.base_url or anthropic.ANTHROPIC_URL,
        allow_http=settings.allow_http,
    )
    return anthropic.AnthropicProvider(Connections(destination))


def _openai(settings: ProviderSettings) -> Provider:
    from serving.egress.providers import openai_provider as openai  # noqa: PLC0415

    key, allow_http = settings.api_key.get_secret_value(), settings.allow_http
    if settings.kind == "azure":
        destination = openai.azure_destination(
            key, settings.base_url or "", api_version=settings.api_version, allow_http=allow_http
        )
        dialect = openai.AZURE_DEPLOYMENTS if settings.api_version else openai.OPENAI
        return openai.OpenAIProvider(Connections(destination), dialect)
    url = settings.base_url or openai.OPENAI_URL
    own = openai.OPENAI if url == openai.OPENAI_URL else openai.OpenAIDialect()
    return openai.OpenAIProvider(
        Connections(openai.openai_destination(key, url, allow_http=allow_http)), own
    )


def _stand_ins(
    settings: Sequence[ProviderSettings], providers: Mapping[str, Provider]
) -> dict[str, list[StandIn]]:
    """Return the provider models that stand in for each local model, in configured order."""
    found: dict[str, list[StandIn]] = {}
    for one in settings:
        deadlines = Deadlines(
            connect_s=one.connect_timeout_s,
            first_event_s=one.first_delta_timeout_s,
            idle_s=one.stall_timeout_s,
        )
        for model in one.models:
            provider_model = ProviderModel(
                one.name,
                model.model,
                providers[one.name],
                Tariff.of_price(model.price),
                deadlines,
                model.max_output_tokens,
            )
            for name in model.stands_in_for:
                found.setdefault(name, []).append(
                    StandIn(provider_model, _capabilities(one, model))
                )
    return found


def _capabilities(provider: ProviderSettings, model: ProviderModelSettings) -> Capabilities:
    return Capabilities(
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        tools=model.tools,
        parallel_tools=model.tools,
        schema=model.json_schema,
        json_object=model.json_object,
        vision=model.vision,
        logprobs=model.logprobs,
        n=model.max_choices,
        completions=model.completions and provider.kind != "anthropic",
        stops=16 if provider.kind == "anthropic" else 4,
        blank_stops=provider.kind != "anthropic",
        seed=model.seed,
        continuation=model.continuation,
    )
