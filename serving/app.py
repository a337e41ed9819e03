"""The composition root: a configuration becomes a Ray Serve application.

`build` runs where the application is deployed from and may import vLLM; `Gateway` runs in the
gateway's replicas and may not.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import SecretStr
from ray import serve
from ray.serve._private import http_util
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from models import prepare
from models.catalog import NO_ACCESS_LOG, ModelSpec
from models.delivery.receiver import Receiver
from models.ray_binding import between_nodes, bind_to_node, node_address
from models.remote.embedder import RemoteEmbedder
from models.remote.engine import RemoteEngine
from models.resources.machine import GIB
from models.resources.memory import is_sized
from models.tokens.token_counter import TokenCounter, counter
from serving import config
from serving.access.authenticator import Authenticator
from serving.access.invalidation import Invalidations
from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.access.tenants import TenantStore
from serving.admission.limits import LimitStore
from serving.answering.explanations import Explanations
from serving.answering.routing import Routing
from serving.config import QUIET_ENVIRONMENT, IdempotencySettings, Settings
from serving.domain.model_state import RETRIEVAL
from serving.gateway.admin.administration import Administration
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import document_routes
from serving.gateway.openai import request_explanations as request_routes
from serving.idempotency.store import IdempotencyStore
from serving.knowledge.curation import KNOWLEDGE, Curator
from serving.knowledge.remote import RemoteKnowledge
from serving.pipeline import Pipeline
from serving.privacy.detector.remote import RemoteDetector
from serving.privacy.detector.server import DetectorOptions, build_detector
from serving.ray_cluster.cluster import APPLICATION, GATEWAY
from serving.ray_cluster.engine_watch import EngineWatch
from serving.ray_cluster.readiness import ServeReadiness
from serving.ray_cluster.replica_stop import let_in_at_once, when_stopped
from serving.storage import migrate
from serving.storage.database import Database
from serving.storage.valkey import PREFIX, Valkey
from serving.telemetry.logs import configure_logs
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts
from serving.wiring.egress import EgressParts, operator_rules
from serving.wiring.retrieval import RetrievalParts
from serving.wiring.stopping import CLOSE_S, Stopping, StopReport, Written

GC_THRESHOLD = 10_000
"""Objects made before the youngest are looked through. At Python's 700 that was a fourteenth of
the gateway's time under load."""


@dataclass(frozen=True, slots=True)
class _Models:
    """By model id."""

    engines: dict[str, RemoteEngine]
    embedders: dict[str, RemoteEmbedder]
    counters: dict[str, TokenCounter]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a gateway starts before its first request and closes after its last."""

    database: Database
    receiver: Receiver
    admission_parts: AdmissionParts
    egress_parts: EgressParts
    retrieval_parts: RetrievalParts | None

    def start(self) -> None:
        """Begin what runs beside requests."""
        for part in (self.admission_parts, self.egress_parts, self.retrieval_parts):
            if part is not None:
                part.start()

    async def close(self) -> Written:
        """Write what waits and close everything, whatever fails of it."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            stack.callback(self.receiver.close)
            if self.retrieval_parts is not None:
                stack.push_async_callback(self.retrieval_parts.close)
            try:
                entries, signed = await self.egress_parts.close()
            finally:
                rows = await self.admission_parts.close()
        return Written([*entries, *rows], signed)


class Gateway:
    """One replica of the HTTP edge.

    Args:
        raw: the configuration as written; each replica fills `${ENV}` from its own environment,
            so secrets are never stored by Ray.
        handles: of the model deployments, by model id.
        detector: of the deployment that finds personal data, where there are providers.
        knowledge: of the deployments that own the indexes and look after them, where a model
            embeds.
    """

    def __init__(
        self,
        raw: dict[str, Any],
        handles: dict[str, DeploymentHandle],
        detector: DeploymentHandle | None,
        knowledge: tuple[DeploymentHandle, DeploymentHandle] | None,
    ) -> None:
        bind_to_node()
        http_util.RequestIdMiddleware = _Unwrapped  # It would add the header a second time.
        self._settings = config.parse(raw)
        self._handles = handles
        self._detector = detector and RemoteDetector(
            detector, timeout_s=self._settings.privacy.detector_timeout_s
        )
        search_timeout_s = self._settings.retrieval.search_timeout_s
        self._knowledge: RemoteKnowledge | None = knowledge and RemoteKnowledge(
            *knowledge, timeout_s=search_timeout_s
        )

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """The ASGI application of this replica. Called by Ray Serve after the constructor."""
        settings = self._settings
        gc.set_threshold(GC_THRESHOLD)
        configure_logs()
        access = settings.access
        await asyncio.to_thread(migrate.upgrade, access.database_url)
        secret = await asyncio.to_thread(server_secret, access)
        database = Database.open(access.database_url)
        invalidations = Invalidations.open(settings.valkey_url)
        keys = KeyStore(database, secret, announce=invalidations.announce)
        authenticator = Authenticator(
            keys, secret, fixed_key=settings.api_key, changes=invalidations
        )
        meter = Meter()
        watch = EngineWatch(ServeReadiness(APPLICATION, _deployments(settings)))
        admission_parts = AdmissionParts.open(
            database,
            settings,
            authenticator=authenticator,
            invalidations=invalidations,
            meter=meter,
            is_ready=watch.ready,
        )
        explanations = Explanations(admission_parts.valkey, admission_parts.ledger, prefix=PREFIX)
        egress_parts = self._egress_parts(database, secret, admission_parts, watch, explanations)
        receiver = Receiver()
        models = await self._models(receiver)
        retrieval_parts = self._retrieval_parts(database, models, admission_parts, meter)
        routing = Routing(
            attempts=admission_parts.attempts,
            engines=models.engines,
            overflow=egress_parts.overflow,
            receipt_issuer=egress_parts.receipt_issuer,
        )
        pipeline = Pipeline(
            authenticator=authenticator,
            attempts=admission_parts.attempts,
            routing=routing,
            specs={spec.id: spec for spec in settings.models},
            engines=models.engines,
            embedders=models.embedders,
            counters=models.counters,
            secret=secret,
            knowledge=None if retrieval_parts is None else retrieval_parts.knowledge,
            receipt_issuer=egress_parts.receipt_issuer,
        )
        requests = OpenRequests()
        store = _idempotency_store(admission_parts.valkey, secret, settings.idempotency)
        idempotency = Idempotency(store, requests=requests)
        parts = _Parts(database, receiver, admission_parts, egress_parts, retrieval_parts)
        self._stopping = Stopping(
            requests,
            idempotency=idempotency,
            admission=admission_parts.admission,
            close=parts.close,
        )
        parts.start()
        loop, drain_s = asyncio.get_running_loop(), settings.server.drain_s
        let_in_at_once(self.stop.__name__)
        when_stopped(lambda: loop.call_soon_threadsafe(self._stopping.stop_later, drain_s))
        explained = request_routes.router(
            pipeline, explanations, currency=settings.accounting.currency
        )
        return build_app(
            pipeline,
            idempotency,
            requests=requests,
            stop=lambda: self._stopping.stop(drain_s=0),
            readiness=watch,
            meter=meter,
            server=settings.server,
            limits=settings.limits,
            explained=explained,
            documents=None
            if retrieval_parts is None
            else _documents(settings, pipeline, idempotency, retrieval_parts),
            administration=_administration(
                settings,
                database,
                keys=keys,
                authenticator=authenticator,
                admission_parts=admission_parts,
                egress_parts=egress_parts,
                curator=self._knowledge,
            ),
        )

    async def stop(self, drain_s: float) -> StopReport:
        """Stop taking requests, end the open ones after `drain_s`, and write what they leave."""
        return await self._stopping.stop(drain_s)

    def _egress_parts(
        self,
        database: Database,
        secret: SecretStr,
        admission_parts: AdmissionParts,
        watch: EngineWatch,
        explanations: Explanations,
    ) -> EgressParts:
        return EgressParts.open(
            self._settings,
            database=database,
            valkey=admission_parts.valkey,
            secret=secret,
            detector=self._detector,
            queues=admission_parts.admission.queues,
            engines=watch,
            explanations=explanations,
        )

    async def _models(self, receiver: Receiver) -> _Models:
        """What answers for each model, and counts its tokens."""
        await receiver.listen(node_address(), tls=between_nodes().server)
        specs = self._settings.models
        engines = {
            one.id: self._engine(one.id, receiver) for one in specs if one.task == "generate"
        }
        embedders = {one.id: self._embedder(one.id) for one in specs if one.task == "embed"}
        counters = {one.id: await self._counter(one, engines.get(one.id)) for one in specs}
        return _Models(engines, embedders, counters)

    def _retrieval_parts(
        self, database: Database, models: _Models, admission_parts: AdmissionParts, meter: Meter
    ) -> RetrievalParts | None:
        """Files and vector stores; None where no model embeds."""
        if self._knowledge is None:
            return None
        return RetrievalParts.open(
            self._settings,
            self._knowledge,
            database=database,
            embedders=models.embedders,
            counters=models.counters,
            admission_parts=admission_parts,
            meter=meter,
        )

    async def _counter(self, spec: ModelSpec, engine: RemoteEngine | None) -> TokenCounter:
        """Counts with the files of a model that are on this node, else asks its engine."""
        directory = None
        if not spec.simulated and prepare.status(spec, self._settings.home) == "ready":
            directory = await asyncio.to_thread(prepare.prepare, spec, self._settings.home)
        return await asyncio.to_thread(counter, spec, directory, engine)

    def _engine(self, model: str, receiver: Receiver) -> RemoteEngine:
        server = self._settings.server
        return RemoteEngine(
            self._handles[model],
            receiver,
            first_delta_timeout_s=server.first_delta_timeout_s,
            stall_timeout_s=server.stall_timeout_s,
        )

    def _embedder(self, model: str) -> RemoteEmbedder:
        timeout_s = self._settings.server.first_delta_timeout_s
        return RemoteEmbedder(self._handles[model], timeout_s=timeout_s)


def _administration(
    settings: Settings,
    database: Database,
    *,
    keys: KeyStore,
    authenticator: Authenticator,
    admission_parts: AdmissionParts,
    egress_parts: EgressParts,
    curator: Curator | None,
) -> Administration:
    return Administration(
        authenticate=authenticator.authenticate,
        database=database,
        tenants=TenantStore(database, announce=admission_parts.invalidations.announce),
        keys=keys,
        limits=LimitStore(database, announce=admission_parts.invalidations.announce),
        spending=admission_parts.spending,
        usage=admission_parts.ledger,
        models=frozenset(spec.id for spec in settings.models),
        currency=settings.accounting.currency,
        scrubber=egress_parts.scrubber,
        curator=curator,
    )


def _documents(
    settings: Settings,
    pipeline: Pipeline,
    idempotency: Idempotency,
    retrieval_parts: RetrievalParts,
) -> APIRouter:
    return document_routes.router(
        pipeline,
        idempotency,
        retrieval_parts.documents,
        server=settings.server,
        limits=settings.limits,
        uploads=settings.files,
    )


def _deployments(settings: Settings) -> dict[str, str]:
    """What must run before everything can be answered, and how it is called."""
    models = {spec.id: spec.deployment_name for spec in settings.models}
    return models if settings.embedder is None else models | {RETRIEVAL: KNOWLEDGE}


def _idempotency_store(
    valkey: Valkey, secret: SecretStr, settings: IdempotencySettings
) -> IdempotencyStore:
    return IdempotencyStore(valkey, secret, ttl_s=settings.ttl_s, max_bytes=settings.max_bytes)


class _Unwrapped:
    """An ASGI application as it is, in the place of a middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def build(args: Mapping[str, Any]) -> Application:
    """The application, for `serve run serving.app:build` and for `ringfence serve`.

    Args:
        args: `config`, a configuration mapping, or `config_file`, a path; neither means the
            built-in configuration. `cache_bytes`, by model id, is the KV cache of CPU engines
            whose configuration says nothing of it; without, each looks at its node's memory.
    """
    raw = args.get("config") or config.read(
        Path(args["config_file"]) if args.get("config_file") else None
    )
    settings = config.parse(raw)
    caches = args.get("cache_bytes") or {}
    models = {
        spec.id: _model_application(_with_cache(spec, caches.get(spec.id)), settings)
        for spec in settings.models
    }
    server = settings.server
    knowledge = None
    if settings.embedder is not None:
        from serving.knowledge.server import build_knowledge  # noqa: PLC0415  Imports Chroma.

        built = build_knowledge(raw, settings, models)
        knowledge = built.knowledge, built.curator
    detector = None
    if settings.overflow.providers:
        detector = build_detector(
            operator_rules(settings.privacy),
            drain_s=server.drain_s,
            options=DetectorOptions(replicas=settings.privacy.detector_replicas),
        )
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        num_replicas=server.gateway_replicas,
        max_ongoing_requests=server.max_ongoing_requests,
        graceful_shutdown_timeout_s=server.drain_s + CLOSE_S,
        logging_config=dict(NO_ACCESS_LOG),
        ray_actor_options={"num_cpus": 1},
    )
    return gateway.bind(raw, models, detector, knowledge)


def _with_cache(spec: ModelSpec, cache_bytes: int | None) -> ModelSpec:
    """The model with the cache that was worked out for it, if there is any."""
    if cache_bytes is None or is_sized(spec):
        return spec
    return spec.model_copy(update={"kv_cache_gib": cache_bytes / GIB})


def _model_application(spec: ModelSpec, settings: Settings) -> Application:
    """The deployment of one model. Heavy modules are imported for the kinds that are used."""
    drain_s = settings.server.drain_s
    if spec.engine == "simulated":
        from models.simulated import server as simulated_server  # noqa: PLC0415

        return simulated_server.build(spec, drain_s=drain_s)
    source = model_source(spec, settings)
    if spec.task == "rerank":
        from models.embedding import reranker_server  # noqa: PLC0415

        return reranker_server.build_reranker(spec, source, drain_s=drain_s)
    if spec.task == "embed":
        from models.embedding import embedder_server  # noqa: PLC0415

        return embedder_server.build_embedder(spec, source, drain_s=drain_s)
    from models.vllm import engine as vllm_engine  # noqa: PLC0415

    return vllm_engine.build(spec, source, environment=QUIET_ENVIRONMENT, drain_s=drain_s)


def model_source(spec: ModelSpec, settings: Settings) -> str | Path:
    """What an engine loads: a prepared directory, or a Hugging Face id that its node has cached.

    A GPU node need not be the node this runs on, so an id is not resolved here.
    """
    if isinstance(spec.source, str) and not Path(spec.source).exists():
        return spec.source
    return prepare.prepare(spec, settings.home)
