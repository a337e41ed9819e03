"""A gateway, wired: every part that its requests use, and the ASGI application over them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from fastapi import APIRouter
from pydantic import SecretStr
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from models.background import LoopState
from serving.access.authenticator import Authenticator
from serving.access.invalidation import Invalidations
from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.access.tenants import TenantStore
from serving.admission.limits import LimitStore
from serving.answering.explanations import Explanations
from serving.answering.routing import Routing
from serving.config import Settings
from serving.domain.model_state import RETRIEVAL
from serving.gateway.admin.administration import Administration
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import document_routes, request_explanations
from serving.idempotency.store import IdempotencyStore
from serving.knowledge.curation import KNOWLEDGE
from serving.knowledge.remote import RemoteKnowledge
from serving.pipeline import Pipeline
from serving.privacy.spans import Detector
from serving.ray_cluster.cluster import APPLICATION
from serving.ray_cluster.engine_watch import EngineWatch
from serving.ray_cluster.readiness import ServeReadiness
from serving.storage import migrate
from serving.storage.database import Database
from serving.storage.valkey import PREFIX, Valkey
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts
from serving.wiring.egress import EgressParts
from serving.wiring.models import ModelParts
from serving.wiring.retrieval import RetrievalParts
from serving.wiring.stopping import Stopping, WrittenLedgers


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """Everything of one gateway.

    Attributes:
        settings: all of them.
        secret: of the server.
        database: where keys, ledgers, files and limits are.
        keys: that callers have.
        authenticator: turns a key into a principal.
        meter: what `/metrics` shows.
        watch: knows which models have an engine.
        explanations: of who answered a request.
        admission: limits, budgets, queues and the usage ledger.
        egress: providers and the egress ledger.
        models: engines, embedders and token counters.
        retrieval: files and vector stores; None where no model embeds.
        curator: looks after the indexes, where there are any.
        requests: those that are open.
        idempotency: answers that are kept for a repeated request.
    """

    settings: Settings
    secret: SecretStr
    database: Database
    keys: KeyStore
    authenticator: Authenticator
    meter: Meter
    watch: EngineWatch
    explanations: Explanations
    admission: AdmissionParts
    egress: EgressParts
    models: ModelParts
    retrieval: RetrievalParts | None
    curator: RemoteKnowledge | None
    requests: OpenRequests
    idempotency: Idempotency

    @classmethod
    async def open(
        cls,
        settings: Settings,
        handles: Mapping[str, DeploymentHandle],
        *,
        detector: Detector | None,
        knowledge: RemoteKnowledge | None,
    ) -> Self:
        """Migrate the database and make every part; nothing runs yet.

        `handles` are those of the model deployments, by model id. Without providers there is no
        `detector`, and where no model embeds there is no `knowledge`.
        """
        database, secret = await _database(settings)
        invalidations = Invalidations.open(settings.valkey_url)
        keys, authenticator = _access(settings, database, secret, invalidations)
        meter = Meter()
        watch = EngineWatch(ServeReadiness(APPLICATION, _deployments(settings)))
        admission = AdmissionParts.open(
            database,
            settings,
            authenticator=authenticator,
            invalidations=invalidations,
            meter=meter,
            is_ready=watch.ready,
        )
        explanations = Explanations(admission.valkey, admission.ledger, prefix=PREFIX)
        egress = EgressParts.open(
            settings,
            database=database,
            valkey=admission.valkey,
            secret=secret,
            detector=detector,
            queues=admission.admission.queues,
            engines=watch,
            explanations=explanations,
        )
        models = await ModelParts.open(settings, handles)
        retrieval = _retrieval(
            settings, knowledge, database=database, models=models, admission=admission, meter=meter
        )
        requests = OpenRequests()
        store = _idempotency_store(admission.valkey, secret, settings)
        return cls(
            settings=settings,
            secret=secret,
            database=database,
            keys=keys,
            authenticator=authenticator,
            meter=meter,
            watch=watch,
            explanations=explanations,
            admission=admission,
            egress=egress,
            models=models,
            retrieval=retrieval,
            curator=knowledge,
            requests=requests,
            idempotency=Idempotency(store, requests=requests),
        )

    def start(self) -> None:
        """Begin what runs beside requests, and show in metrics how it fares."""
        for part in (self.admission, self.egress, self.retrieval):
            if part is not None:
                part.start()
        self.meter.watch_loops(self._loop_states)

    async def close(self) -> WrittenLedgers:
        """Write what waits and close everything, even if closing one part fails."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            stack.callback(self.models.receiver.close)
            if self.retrieval is not None:
                stack.push_async_callback(self.retrieval.close)
            try:
                entries, signed = await self.egress.close()
            finally:
                rows = await self.admission.close()
        return WrittenLedgers([*entries, *rows], signed)

    def stopping(self) -> Stopping:
        """The end of this gateway."""
        return Stopping(
            self.requests,
            idempotency=self.idempotency,
            admission=self.admission.admission,
            close=self.close,
        )

    def application(self, stop: Callable[[], Awaitable[object]]) -> ASGIApp:
        """The ASGI application. `stop` ends the gateway at once."""
        settings, pipeline = self.settings, self._pipeline()
        return build_app(
            pipeline,
            self.idempotency,
            requests=self.requests,
            stop=stop,
            readiness=self.watch,
            meter=self.meter,
            server=settings.server,
            limits=settings.limits,
            explained=request_explanations.router(
                pipeline, self.explanations, currency=settings.accounting.currency
            ),
            documents=self._documents(pipeline),
            administration=self._administration(),
        )

    def _loop_states(self) -> Iterator[LoopState]:
        """How background loops fare, here and in `Knowledge`."""
        for part in (self.admission, self.egress, self.retrieval):
            if part is not None:
                yield from (loop.state() for loop in part.loops)
        if self.retrieval is not None:
            yield from self.retrieval.indexing.states()

    def _pipeline(self) -> Pipeline:
        models, issuer = self.models, self.egress.receipt_issuer
        return Pipeline(
            authenticator=self.authenticator,
            attempts=self.admission.attempts,
            routing=Routing(
                attempts=self.admission.attempts,
                engines=models.engines,
                overflow=self.egress.overflow,
                receipt_issuer=issuer,
            ),
            specs={spec.id: spec for spec in self.settings.models},
            engines=models.engines,
            embedders=models.embedders,
            counters=models.counters,
            secret=self.secret,
            knowledge=None if self.retrieval is None else self.retrieval.knowledge,
            receipt_issuer=issuer,
        )

    def _documents(self, pipeline: Pipeline) -> APIRouter | None:
        if self.retrieval is None:
            return None
        return document_routes.router(
            pipeline,
            self.idempotency,
            self.retrieval.documents,
            server=self.settings.server,
            limits=self.settings.limits,
            uploads=self.settings.files,
        )

    def _administration(self) -> Administration:
        announce = self.admission.invalidations.announce
        return Administration(
            authenticate=self.authenticator.authenticate,
            database=self.database,
            tenants=TenantStore(self.database, announce=announce),
            keys=self.keys,
            limits=LimitStore(self.database, announce=announce),
            spending=self.admission.spending,
            usage=self.admission.ledger,
            models=frozenset(spec.id for spec in self.settings.models),
            currency=self.settings.accounting.currency,
            scrubber=self.egress.scrubber,
            curator=self.curator,
        )


def _access(
    settings: Settings, database: Database, secret: SecretStr, invalidations: Invalidations
) -> tuple[KeyStore, Authenticator]:
    keys = KeyStore(database, secret, announce=invalidations.announce)
    fixed_key = settings.api_key
    return keys, Authenticator(keys, secret, fixed_key=fixed_key, changes=invalidations)


def _retrieval(
    settings: Settings,
    knowledge: RemoteKnowledge | None,
    *,
    database: Database,
    models: ModelParts,
    admission: AdmissionParts,
    meter: Meter,
) -> RetrievalParts | None:
    if knowledge is None:
        return None
    return RetrievalParts.open(
        settings,
        knowledge,
        database=database,
        embedders=models.embedders,
        counters=models.counters,
        admission_parts=admission,
        meter=meter,
    )


async def _database(settings: Settings) -> tuple[Database, SecretStr]:
    """The migrated database, and the secret of the server."""
    await asyncio.to_thread(migrate.upgrade, settings.access.database_url)
    secret = await asyncio.to_thread(server_secret, settings.access)
    return Database.open(settings.access.database_url), secret


def _deployments(settings: Settings) -> dict[str, str]:
    """Return the deployment of each model, all of which must run before the server is ready."""
    models = {spec.id: spec.deployment_name for spec in settings.models}
    return models if settings.embedder is None else models | {RETRIEVAL: KNOWLEDGE}


def _idempotency_store(valkey: Valkey, secret: SecretStr, settings: Settings) -> IdempotencyStore:
    kept = settings.idempotency
    return IdempotencyStore(valkey, secret, ttl_s=kept.ttl_s, max_bytes=kept.max_bytes)
