from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import ASGIApp

from models.catalog import ModelSpec, Simulation
from models.embedding.embedder import Embedder
from models.engine import Engine
from models.simulated.engine import SimulatedEngine
from serving.access.keys import KeyStore
from serving.config import LimitSettings, ServerSettings
from serving.domain.model_state import ModelState, Readiness
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.idempotency.store import IdempotencyStore
from serving.storage.database import Database
from serving.storage.migrate import upgrade
from serving.telemetry.meter import Meter
from serving.wiring.admission import AdmissionParts
from tests.serving.fakes import DIMENSION, FakeEmbedder
from tests.serving.live import WAIT_S
from tests.serving.valkeys import (
    embedded_valkey_url,
    redis_url,
    valkey,
    valkey_prefix,
    valkey_url,
)
from tests.serving.wired import FIXED_KEY, SECRET, Wire, wire

__all__ = [
    "FIXED_KEY",
    "SECRET",
    "embedded_valkey_url",
    "redis_url",
    "valkey",
    "valkey_prefix",
    "valkey_url",
    "wire",
]

INSTANT = Simulation(step_base_ms=0, step_per_sequence_ms=0, prefill_ms_per_token=0)
SPECS = (
    ModelSpec(id="chat", engine="simulated", context_tokens=1000, simulation=INSTANT),
    ModelSpec(id="other", engine="simulated", context_tokens=1000, simulation=INSTANT),
    ModelSpec(
        id="embed",
        task="embed",
        engine="sentence-transformers",
        source="/nowhere",
        dimension=DIMENSION,
        context_tokens=64,
    ),
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of two tenants, of an administrator, and one that may use only `other` and `embed`."""

    acme: str
    globex: str
    admin: str
    limited: str


@dataclass(slots=True)
class Backend:
    """A gateway on fakes, and a client with the fixed key."""

    app: ASGIApp
    meter: Meter
    client: httpx.AsyncClient
    admission_parts: AdmissionParts
    requests: OpenRequests
    idempotency: Idempotency

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.client.post(path, content=raw, headers=headers)

    async def chat(self, *, key: str = FIXED_KEY, **fields: Any) -> httpx.Response:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]} | fields
        return await self.post("/v1/chat/completions", body, authorization=f"Bearer {key}")

    async def complete(self, **fields: Any) -> httpx.Response:
        return await self.post("/v1/completions", {"model": "chat", "prompt": "Hi"} | fields)

    async def metric(self, sample: str) -> float:
        """Return a sample of `/metrics` by name and labels; 0 if it does not exist."""
        text = (await self.client.get("/metrics")).text
        found = [line for line in text.splitlines() if line.startswith(sample + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    async def comes_to(self, value: float, sample: str) -> bool:
        """Wait for a sample to have a value: a request is counted a moment after its end."""
        end = asyncio.get_running_loop().time() + WAIT_S
        while await self.metric(sample) != value:
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(0.01)
        return True


class FixedReadiness(Readiness):
    """States that are given."""

    def __init__(self, states: dict[str, ModelState]) -> None:
        self.states = states

    async def __call__(self) -> dict[str, ModelState]:
        return self.states


Make = Callable[..., Backend]


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('serving')}/ringfence.db"
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def keys(store_url: str) -> Keys:
    async def create() -> Keys:
        database = Database.open(store_url)
        store = KeyStore(database, SECRET)
        try:
            issued = [
                await store.create("acme", "ci"),
                await store.create("globex", "ci"),
                await store.create("acme", "boss", role="admin"),
                await store.create("acme", "limited", allowed_models=["other", "embed"]),
            ]
        finally:
            await database.close()
        return Keys(*(one.key.get_secret_value() for one in issued))

    return asyncio.run(create())


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    opened = Database.open(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def make(wire: Wire) -> AsyncIterator[Make]:
    """Makes gateways: `make(engine, embedder=..., server={...}, limits={...}, states={...})`.

    Other settings by the name of their group: `admission={...}`.
    """
    clients: list[httpx.AsyncClient] = []

    def build(
        engine: Engine | None = None,
        *,
        embedder: Embedder | None = None,
        server: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        states: dict[str, ModelState] | None = None,
        specs: tuple[ModelSpec, ...] = SPECS,
        **settings: Any,
    ) -> Backend:
        engines: dict[str, Engine] = {
            spec.id: SimulatedEngine(spec) for spec in specs if spec.task == "generate"
        }
        if engine is not None:
            engines["chat"] = engine
        embedders = {"embed": embedder or FakeEmbedder()}
        pipeline, admission_parts, meter = wire(specs, engines, embedders, **settings)
        requests = OpenRequests()
        idempotency = Idempotency(
            IdempotencyStore(admission_parts.valkey, SECRET), requests=requests
        )
        app = build_app(
            pipeline,
            idempotency,
            requests=requests,
            readiness=FixedReadiness(states or {}),
            meter=meter,
            server=ServerSettings.model_validate(server or {}),
            limits=LimitSettings.model_validate(limits or {}),
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://ringfence",
            headers={"Authorization": f"Bearer {FIXED_KEY}"},
        )
        clients.append(client)
        return Backend(app, meter, client, admission_parts, requests, idempotency)

    yield build
    for client in clients:
        await client.aclose()


@pytest.fixture
def backend(make: Make) -> Backend:
    """A gateway on simulated engines that take no time."""
    return make()
