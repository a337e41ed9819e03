"""`Knowledge` as a Ray Serve deployment: one replica where it owns the vectors itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.background import LoopState
from models.catalog import HEALTH_CHECK_PERIOD_S, NO_ACCESS_LOG, ModelSpec
from models.prepare import prepare, revision_of
from models.remote.embedder import RemoteEmbedder
from models.remote.reranker import RemoteReranker
from models.tokens.token_counter import counter
from rag.index.embedder_versions import ServedEmbedder
from rag.index.protocols import Collection
from rag.ingestion.chunking import embedder_tokenizer, windows
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits, LexicalRequest, SearchRequest
from serving import config
from serving.config import Settings
from serving.knowledge.curation import CURATOR, KNOWLEDGE, ReembeddingFacts, StoreFacts
from serving.knowledge.error_values import Told, told
from serving.knowledge.service import KnowledgeService
from serving.storage import migrate
from serving.storage.database import Database
from serving.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from ray.serve import Application, Deployment
    from ray.serve.handle import DeploymentHandle

MAX_ONGOING_REQUESTS = 64
MAX_QUEUED_REQUESTS = 256

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "2"}
"""Environment that keeps numeric libraries to one thread: the machine's cores are the models'."""


class KnowledgeServer:
    """`KnowledgeService` behind a handle.

    Args:
        raw: the configuration as written, as of `Gateway`.
        embedders: handles of the models that embed, by model id.
        reranker: handle of the model that reranks; None: none does.
        curates: whether this process looks after the stores too.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it.
        self,
        raw: dict[str, Any],
        embedders: dict[str, DeploymentHandle],
        reranker: DeploymentHandle | None,
        curates: bool,
    ) -> None:
        from models.ray_binding import bind_to_node  # noqa: PLC0415  Only where it runs.

        bind_to_node()
        configure_logs()
        settings = config.parse(raw)
        url = settings.access.database_url
        await asyncio.to_thread(migrate.upgrade, url)
        timeout_s = settings.server.first_delta_timeout_s
        self._service = KnowledgeService(
            settings,
            Database.open(url),
            embedders=await asyncio.to_thread(_served, settings, embedders),
            reranker=reranker and RemoteReranker(reranker, timeout_s=timeout_s),
        )
        self._service.start(curates=curates)

    async def __del__(self) -> None:
        """Called by Ray Serve when every request has ended."""
        await self._service.close()

    async def lexical(self, request: LexicalRequest) -> Told[list[LexicalHits]]:
        """See `KnowledgeService.lexical`."""
        return await told(self._service.lexical(request))

    async def search(self, request: SearchRequest) -> Told[list[Passage]]:
        """See `KnowledgeService.search`."""
        return await told(self._service.search(request))

    async def create(self, collection: Collection) -> Told[None]:
        """See `KnowledgeService.create`."""
        return await told(self._service.create(collection))

    async def wake(self) -> None:
        """See `KnowledgeService.wake`."""
        self._service.wake()

    async def stores(self) -> Told[list[StoreFacts]]:
        """See `Curator`."""
        return await told(self._service.stores())

    async def reembed(self, store_id: str, model: str, force: bool) -> Told[ReembeddingFacts]:
        """See `Curator`."""
        return await told(self._service.reembed(store_id, model, force=force))

    async def reembedding(self, store_id: str) -> Told[ReembeddingFacts]:
        """See `Curator`."""
        return await told(self._service.reembedding(store_id))

    async def rollback(self, store_id: str) -> Told[ReembeddingFacts]:
        """See `Curator`."""
        return await told(self._service.rollback(store_id))

    async def drift(self, store_id: str) -> Told[dict[str, Any]]:
        """See `Curator`."""
        return await told(self._service.drift(store_id))

    async def check(self) -> Told[list[str]]:
        """See `Curator`."""
        return await told(self._service.check())

    async def loops(self) -> list[LoopState]:
        """How what runs beside searches fares here."""
        return [loop.state() for loop in self._service.loops]


def _served(
    settings: Settings, handles: Mapping[str, DeploymentHandle]
) -> dict[str, ServedEmbedder]:
    """The models that embed, with their tokenizers; blocks while those are loaded."""
    timeout_s = settings.server.first_delta_timeout_s
    return {
        spec.id: _served_embedder(
            spec,
            prepare(spec, settings.home),
            RemoteEmbedder(handles[spec.id], timeout_s=timeout_s),
        )
        for spec in settings.models
        if spec.id in handles
    }


def _served_embedder(spec: ModelSpec, directory: Path, embedder: RemoteEmbedder) -> ServedEmbedder:
    context_tokens = counter(spec, directory, None).context_tokens
    tokenizer = embedder_tokenizer(directory)
    whole = partial(windows, tokenizer=tokenizer, window_tokens=context_tokens or UNBOUNDED)
    return ServedEmbedder(embedder, revision_of(spec), whole, str(directory))


UNBOUNDED = 1_000_000
"""Tokens that a model without a limit is taken to have."""


@dataclass(frozen=True, slots=True)
class KnowledgeApplications:
    """The searching and the curating deployment; one process serves as both where possible."""

    knowledge: Application
    curator: Application


def build_knowledge(
    raw: dict[str, Any], settings: Settings, models: Mapping[str, Application]
) -> KnowledgeApplications:
    """The Serve applications of retrieval, `Knowledge` and, if that has replicas, `Curator`.

    Args:
        raw: the configuration as written.
        settings: the same, parsed. A model embeds.
        models: applications of all models, by id.
    """
    embedders = {spec.id: models[spec.id] for spec in settings.models if spec.task == "embed"}
    reranker = None if settings.reranker is None else models[settings.reranker]
    replicas = settings.retrieval.replicas
    searching = _deployment(KNOWLEDGE, settings, replicas)
    knowledge = searching.bind(raw, embedders, reranker, replicas == 1)
    if replicas == 1:
        return KnowledgeApplications(knowledge, knowledge)
    curator = _deployment(CURATOR, settings, 1).bind(raw, embedders, reranker, True)  # noqa: FBT003
    return KnowledgeApplications(knowledge, curator)


def _deployment(name: str, settings: Settings, replicas: int) -> Deployment:
    from ray import serve  # noqa: PLC0415  Importing this module stays cheap.

    return serve.deployment(KnowledgeServer).options(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=MAX_QUEUED_REQUESTS,
        graceful_shutdown_timeout_s=settings.server.drain_s,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        logging_config=dict(NO_ACCESS_LOG),
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": ONE_THREAD}},
    )
