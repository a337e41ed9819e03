"""The composition root: a configuration becomes a Ray Serve application.

`build` runs where the application is deployed from and may import vLLM; `Gateway` runs in the
gateway's replicas and may not.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from models import prepare
from models.catalog import NO_ACCESS_LOG, ModelSpec
from models.ray_binding import bind_to_node
from models.ray_compat import leave_request_ids, let_in_at_once, when_stopped
from models.resources.machine import GIB
from models.resources.memory import is_sized
from models.vllm import deployment
from serving import config
from serving.config import QUIET_ENVIRONMENT, Settings
from serving.knowledge.remote import RemoteKnowledge
from serving.privacy.detector.remote import RemoteDetector
from serving.privacy.detector.server import DetectorOptions, build_detector
from serving.ray_cluster.cluster import GATEWAY
from serving.telemetry.logs import configure_logs
from serving.wiring.egress import operator_rules
from serving.wiring.gateway import GatewayParts
from serving.wiring.stopping import CLOSE_S, StopReport

GC_THRESHOLD = 10_000
"""Objects made before the youngest generation is collected. Python's default of 700 took a
fourteenth of the gateway's time under load."""


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
        leave_request_ids()
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
        gc.set_threshold(GC_THRESHOLD)
        configure_logs()
        parts = await GatewayParts.open(
            self._settings, self._handles, detector=self._detector, knowledge=self._knowledge
        )
        self._stopping = parts.stopping()
        parts.start()
        loop, drain_s = asyncio.get_running_loop(), self._settings.server.drain_s
        let_in_at_once(self.stop.__name__)
        when_stopped(lambda: loop.call_soon_threadsafe(self._stopping.stop_later, drain_s))
        return parts.application(stop=lambda: self._stopping.stop(drain_s=0))

    async def stop(self, drain_s: float) -> StopReport:
        """Stop taking requests, end the open ones after `drain_s`, and write what they leave."""
        return await self._stopping.stop(drain_s)


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
    if spec.device == "cpu":
        return deployment.build(spec, source, environment=QUIET_ENVIRONMENT, drain_s=drain_s)
    from models.vllm import engine as vllm_engine  # noqa: PLC0415

    return vllm_engine.build(spec, source, environment=QUIET_ENVIRONMENT, drain_s=drain_s)


def model_source(spec: ModelSpec, settings: Settings) -> str | Path:
    """What an engine loads: a prepared directory, or a Hugging Face id that its node has cached.

    A GPU node need not be the node this runs on, so an id is not resolved here.
    """
    if isinstance(spec.source, str) and not Path(spec.source).exists():
        return spec.source
    return prepare.prepare(spec, settings.home)
