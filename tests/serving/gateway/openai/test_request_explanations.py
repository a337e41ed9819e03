"""`/v1/requests/{id}`: how a request was answered."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import httpx
import pytest

from serving.answering.explanations import Considered, Decision, Explanations
from serving.config import LimitSettings, ServerSettings
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai.request_explanations import router
from serving.idempotency.store import IdempotencyStore
from tests.serving.conftest import FIXED_KEY, SECRET, SPECS, FixedReadiness, Keys
from tests.serving.fakes import WHOLE, FakeEmbedder, ScriptedEngine
from tests.serving.wired import Wire

DECISION = Decision(
    "scrubbed", "overloaded", [Considered("overflow:far", "unscrubbable", "In German.")]
)


class Desk:
    """A gateway that explains requests, and a client of it."""

    def __init__(self, client: httpx.AsyncClient, explanations: Explanations) -> None:
        self.client = client
        self.explanations = explanations
        self.id = secrets.token_hex(6)

    async def chat(self) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
        answer = await self.client.post(
            "/v1/chat/completions", json=body, headers={"x-request-id": self.id}
        )
        assert answer.status_code == 200

    async def get(self, path: str = "", key: str = FIXED_KEY) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return await self.client.get(f"/v1/requests/{self.id}{path}", headers=headers)


@pytest.fixture
async def desk(wire: Wire) -> AsyncIterator[Desk]:
    engines = {"chat": ScriptedEngine(*WHOLE), "other": ScriptedEngine()}
    pipeline, admission_parts, meter = wire(SPECS, engines, {"embed": FakeEmbedder()})
    explanations = Explanations(
        admission_parts.valkey, admission_parts.ledger, prefix=f"{secrets.token_hex(6)}:"
    )
    requests = OpenRequests()
    app = build_app(
        pipeline,
        Idempotency(IdempotencyStore(admission_parts.valkey, SECRET), requests=requests),
        requests=requests,
        readiness=FixedReadiness({}),
        meter=meter,
        server=ServerSettings(),
        limits=LimitSettings(),
        explained=router(pipeline, explanations, currency="EUR"),
    )
    headers = {"authorization": f"Bearer {FIXED_KEY}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://ringfence", headers=headers
    ) as client:
        yield Desk(client, explanations)


async def test_request_that_was_answered_here_shows_its_attempt(desk: Desk) -> None:
    await desk.chat()
    told = (await desk.get()).json()
    assert (told["id"], told["object"], told["candidates"]) == (desk.id, "request", [])
    [attempt] = told["attempts"]
    assert (attempt["route"], attempt["outcome"], attempt["currency"]) == ("local", "ok", "EUR")
    assert (attempt["prompt_tokens"], attempt["completion_tokens"]) == (3, 2)


async def test_decision_shows_who_was_not_taken_and_why(desk: Desk) -> None:
    await desk.chat()
    await desk.explanations.keep("default", desk.id, DECISION)
    told = (await desk.get()).json()
    assert (told["privacy"], told["trigger"]) == ("scrubbed", "overloaded")
    assert told["candidates"] == [
        {"route": "overflow:far", "reason": "unscrubbable", "detail": "In German."}
    ]


async def test_request_of_another_tenant_is_not_found(desk: Desk, keys: Keys) -> None:
    await desk.chat()
    for path in ("", "/receipt"):
        answer = await desk.get(path, keys.globex)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_request_that_never_was_is_not_found(desk: Desk) -> None:
    assert (await desk.get()).status_code == 404
