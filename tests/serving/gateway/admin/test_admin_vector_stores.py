"""`/admin/v1/vector_stores` on a fake of the curator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.config import LimitSettings
from serving.gateway import body
from serving.gateway.admin import vector_stores
from serving.gateway.admin.administration import AdminEdge
from serving.gateway.admin.objects import AdminObject
from serving.knowledge.curation import Curator, ReembeddingFacts, StoreFacts

RUNNING = ReembeddingFacts("running", "org/new", 1, 3)


@dataclass
class FakeCurator(Curator):
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def stores(self) -> Sequence[StoreFacts]:
        return [StoreFacts("vs_1", "acme", "manuals", "gen_1", "org/old", "It is another.")]

    async def reembed(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        self.calls.append((store_id, model, force))
        return RUNNING

    async def reembedding(self, store_id: str) -> ReembeddingFacts:
        self.calls.append((store_id,))
        return RUNNING

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        self.calls.append(("rollback", store_id))
        return RUNNING

    async def drift(self, store_id: str) -> dict[str, Any]:
        return {"store_id": store_id, "alerts": ["psi"], "psi": 0.3}

    async def check(self) -> Sequence[str]:
        return ["vector v1:0:0 has no chunk"]


class DirectEdge(AdminEdge):
    """An edge without idempotency."""

    def __init__(self) -> None:
        """Skip the parent's parts, which are not needed."""

    async def answer(
        self,
        request: Request,
        kind: type[body.Body],
        make: Callable[[body.Body], Awaitable[AdminObject]],
    ) -> Response:
        raw = await request.body()
        made = await make(body.parse(raw, kind, max_depth=LimitSettings().max_depth))
        return Response(made.model_dump_json(), media_type="application/json")


@pytest.fixture
def curator() -> FakeCurator:
    return FakeCurator()


@pytest.fixture
async def client(curator: FakeCurator) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(vector_stores.router(curator, DirectEdge()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as opened:
        yield opened


async def test_stores_of_all_tenants_are_told_with_their_mismatch(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/vector_stores")).json() == {
        "object": "list",
        "data": [{
            "object": "vector_store", "id": "vs_1", "tenant": "acme", "name": "manuals",
            "generation": "gen_1", "model": "org/old", "mismatch": "It is another.",
        }],
    }  # fmt: skip


async def test_reembedding_is_begun_shown_and_rolled_back(
    client: httpx.AsyncClient, curator: FakeCurator
) -> None:
    told = {
        "object": "vector_store.reembedding", "store": "vs_1", "phase": "running",
        "model": "org/new", "done": 1, "total": 3, "recall": None, "error": None,
    }  # fmt: skip
    begun = await client.post("/vector_stores/vs_1/reembed", json={"model": "org/new"})
    shown = await client.get("/vector_stores/vs_1/reembed")
    back = await client.post("/vector_stores/vs_1/rollback", json={})
    assert [answer.json() for answer in (begun, shown, back)] == [told] * 3
    assert curator.calls == [("vs_1", "org/new", False), ("vs_1",), ("rollback", "vs_1")]


async def test_drift_has_every_measure_of_the_report(client: httpx.AsyncClient) -> None:
    assert (await client.get("/vector_stores/vs_1/drift")).json() == {
        "object": "vector_store.drift", "store_id": "vs_1", "alerts": ["psi"], "psi": 0.3,
    }  # fmt: skip


async def test_check_tells_findings(client: httpx.AsyncClient) -> None:
    told = (await client.get("/vector_stores/check")).json()
    assert told["findings"] == ["vector v1:0:0 has no chunk"]
