"""Receipts as clients get them: with the answer, and later, the same bytes; none for an error."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.engine import EngineFailed
from serving.access.keys import KeyStore
from serving.answering.explanations import Explanations
from serving.config import LimitSettings, ServerSettings
from serving.egress.ledger.appender import CheckpointRules
from serving.egress.ledger.ledger import DepartureFacts, EgressLedger
from serving.egress.ledger.receipts import Receipt, verify
from serving.egress.ledger.signing import Signer
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai.request_explanations import router
from serving.idempotency.store import IdempotencyStore
from serving.storage.database import Database
from tests.serving.answering.resume.test_continuation import BROKEN, REST, Replicas
from tests.serving.answering.test_provider_candidates import DOWN, NAME, SAYS_HELLO, WORDS
from tests.serving.conftest import SECRET, SPECS, FixedReadiness
from tests.serving.egress.standin import StandIn
from tests.serving.egress.wire_format import HELLO, refuses, sse, streams
from tests.serving.fakes import ROLE, WHOLE, FakeEmbedder, ScriptedEngine, chat_frame
from tests.serving.wired import Wire

BREAKS_OFF = streams(sse(*HELLO.openai()[:2], done=False))
CUT_HERE = (ROLE, chat_frame({"content": "Hel"}), EngineFailed("Cut."))


@dataclass
class Place:
    """A gateway with a provider, and a client whose key allows everything to leave."""

    client: httpx.AsyncClient
    home: Path

    async def ask(self, **fields: Any) -> httpx.Response:
        body = {"model": "chat", "messages": [{"role": "user", "content": f"I am {NAME}"}]}
        return await self.post("/v1/chat/completions", body | fields)

    async def post(self, path: str, body: Any) -> httpx.Response:
        self.id = secrets.token_hex(6)
        return await self.client.post(path, json=body, headers={"x-request-id": self.id})

    async def later(self) -> str | None:
        """Fetch the receipt of the last request; None if there is none."""
        answer = await self.client.get(f"/v1/requests/{self.id}/receipt")
        if answer.status_code == 404:
            assert answer.json()["error"]["code"] == "not_found"
            return None
        return str(answer.json()["receipt"])

    def read(self, token: str | None) -> Receipt:
        assert token is not None
        return verify(token, Signer.load(self.home / "signing-key.pem").public_keys)


Open = Callable[..., Awaitable[Place]]


@pytest.fixture
async def place(wire: Wire, database: Database, tmp_path: Path) -> AsyncIterator[Open]:
    """Open a gateway: `await place(engine, behaviour of the provider)`."""
    closing: list[Any] = []

    async def build(engine: Any, *script: Any) -> Place:
        provider = StandIn(*(script or (SAYS_HELLO,)))
        await provider.start()
        closing.append(provider.stop)
        near = {
            "name": "near", "kind": "openai", "base_url": f"{provider.url}/v1",
            "api_key": "sk-theirs",
            "models": [
                {"model": "large", "stands_in_for": ["chat"], "context_tokens": 4096,
                 "continuation": True}
            ],
        }  # fmt: skip
        pipeline, admission_parts, meter = wire(
            SPECS,
            {"chat": engine, "other": ScriptedEngine()},
            {"embed": FakeEmbedder()},
            detector=WORDS,
            overflow={"providers": [near], "max_share": 1.0},
        )
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
        issued = await KeyStore(database, SECRET).create(
            "acme", secrets.token_hex(6), privacy="open"
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://ringfence",
            headers={"authorization": f"Bearer {issued.key.get_secret_value()}"},
        )
        closing.append(client.aclose)
        return Place(client, tmp_path)

    yield build
    for close in reversed(closing):
        await close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("privacy", ["local_only", "scrubbed", "open"])
async def test_receipt_fetched_later_is_the_one_of_the_answer(
    place: Open, privacy: str, stream: bool
) -> None:
    there = await place(ScriptedEngine(*WHOLE))
    answer = await there.ask(privacy=privacy, stream=stream)
    token = await there.later()
    assert token == answer.headers["x-ringfence-receipt"]
    told = there.read(token)
    assert (told.privacy, told.route, told.stayed_inside) == (privacy, "local", True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("privacy", ["scrubbed", "open"])
async def test_receipt_of_a_provider_s_answer_is_the_same_later(
    place: Open, privacy: str, stream: bool
) -> None:
    there = await place(ScriptedEngine(DOWN))
    answer = await there.ask(privacy=privacy, stream=stream)
    token = await there.later()
    assert token == answer.headers["x-ringfence-receipt"]
    told = there.read(token)
    assert (told.privacy, told.route) == (privacy, "overflow:near")
    assert [left.provider for left in told.departures] == ["near"]


async def test_stream_of_a_provider_that_breaks_off_keeps_its_receipt(place: Open) -> None:
    there = await place(ScriptedEngine(DOWN), BREAKS_OFF)
    answer = await there.ask(privacy="scrubbed", stream=True)
    assert "[DONE]" not in answer.text
    token = await there.later()
    assert token == answer.headers["x-ringfence-receipt"]
    assert there.read(token).route == "overflow:near"


@pytest.mark.parametrize(
    ("engine", "provider"),
    [
        (ScriptedEngine(DOWN), BREAKS_OFF),
        (ScriptedEngine(DOWN), refuses(500)),
        (ScriptedEngine(*CUT_HERE), SAYS_HELLO),
    ],
    ids=["provider breaks off", "provider fails", "model here breaks off"],
)
async def test_error_has_no_receipt(place: Open, engine: Any, provider: Any) -> None:
    there = await place(engine, provider)
    answer = await there.ask(privacy="open")
    assert answer.status_code >= 500
    assert "x-ringfence-receipt" not in answer.headers
    assert await there.later() is None


async def test_refused_request_has_no_receipt(place: Open) -> None:
    there = await place(ScriptedEngine(*WHOLE))
    answer = await there.ask(temperature="hot")
    assert answer.status_code == 400
    assert await there.later() is None


async def test_what_leaves_after_the_answer_does_not_change_its_receipt(
    place: Open, database: Database, tmp_path: Path
) -> None:
    there = await place(ScriptedEngine(*WHOLE))
    answer = await there.ask(privacy="scrubbed")
    signer = Signer.load(tmp_path / "signing-key.pem")
    ledger = EgressLedger(database, b"secret", CheckpointRules(signer))
    facts: dict[str, Any] = {
        "attempt_id": "a", "tenant": "acme", "key_id": "k", "provider": "far",
        "host": "far.example", "path": "/v1", "model": "large", "privacy": "scrubbed",
        "policy": "p", "entities": {"PERSON": 1},
    }  # fmt: skip
    await ledger.depart(DepartureFacts(request_id=there.id, **facts), b"body")
    await ledger.close()
    assert await there.later() == answer.headers["x-ringfence-receipt"]


async def test_stream_that_may_still_leave_has_its_receipt_at_its_end(place: Open) -> None:
    there = await place(Replicas(BROKEN, (DOWN,)))
    answer = await there.ask(privacy="scrubbed", stream=True, on_failure="continue")
    assert "x-ringfence-receipt" not in answer.headers
    told = there.read(await there.later())
    assert [left.provider for left in told.departures] == ["near"]


@pytest.mark.parametrize("privacy", ["local_only", "scrubbed"])
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_goes_on_here_has_one_receipt(
    place: Open, privacy: str, stream: bool
) -> None:
    there = await place(Replicas(BROKEN, REST))
    answer = await there.ask(privacy=privacy, stream=stream, on_failure="continue")
    token = await there.later()
    assert token == answer.headers.get("x-ringfence-receipt", token)
    assert ("x-ringfence-receipt" in answer.headers) == (privacy == "local_only" or not stream)
    assert there.read(token).stayed_inside


async def test_embeddings_have_a_receipt_too(place: Open) -> None:
    there = await place(ScriptedEngine(*WHOLE))
    answer = await there.post("/v1/embeddings", {"model": "embed", "input": "Hi"})
    token = await there.later()
    assert token == answer.headers["x-ringfence-receipt"]
    assert (there.read(token).model, there.read(token).stayed_inside) == ("embed", True)
