"""A gateway in this process whose model fails, keys of each class, and a provider on a socket."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from models.engine import EngineUnavailable
from serving.access.keys import KeyStore
from serving.domain.privacy_class import CLASSES, PrivacyClass
from serving.privacy.patterns.patterns import find
from serving.privacy.spans import Detector, Span
from serving.storage.database import Database
from tests.security.positions import Endpoint
from tests.serving.conftest import (
    SECRET,
    Backend,
    Make,
    database,
    embedded_valkey_url,
    make,
    store_url,
    wire,
)
from tests.serving.egress.standin import Behaviour, Received, StandIn
from tests.serving.egress.wire_format import Answer, sse, streams
from tests.serving.fakes import FakeEmbedder, ScriptedEngine

__all__ = ["database", "embedded_valkey_url", "make", "store_url", "wire"]

PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
PIECE = 7


class Patterns(Detector):
    """The detector without its models: patterns find identifiers as usual."""

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        return [list(find(text)) for text in texts]


def echo(received: Received) -> Behaviour:
    """Echoes the whole request, a few characters at a time."""
    said = received.body.decode()
    answer = Answer(tuple(said[at : at + PIECE] for at in range(0, len(said), PIECE)))
    chat = received.target.endswith("/chat/completions")
    return streams(sse(*(answer.openai() if chat else answer.text())))


@dataclass(frozen=True, slots=True)
class Border:
    """The gateway, the provider, and keys of a new tenant."""

    backend: Backend
    provider: StandIn
    tenant: str
    keys: dict[PrivacyClass, str]

    async def ask(
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        *,
        stream: bool = False,
        privacy: PrivacyClass = "scrubbed",
        **headers: str,
    ) -> httpx.Response:
        """Return the answer to a request of a key with that class."""
        return await self.post(PATHS[endpoint], body | {"stream": stream}, privacy, **headers)

    async def post(
        self, path: str, body: dict[str, Any], privacy: PrivacyClass, **headers: str
    ) -> httpx.Response:
        told = headers | {"authorization": f"Bearer {self.keys[privacy]}"}
        return await self.backend.post(path, body, **told)

    async def considered(self, answer: httpx.Response) -> list[dict[str, Any]]:
        """Return the ways that are recorded for the explanation of a request."""
        valkey, request_id = self.backend.admission_parts.valkey, answer.headers["x-request-id"]
        [name] = await valkey.command("KEYS", f"*decision:{self.tenant}:{request_id}")
        considered: list[dict[str, Any]] = orjson.loads(await valkey.command("GET", name))[
            "considered"
        ]
        return considered

    def outside(self) -> str:
        """Everything that the provider has received."""
        return "\n".join(
            f"{one.target}\n{one.headers}\n{one.body.decode()}" for one in self.provider.received
        )


def said(answer: httpx.Response) -> str:
    """Return the text of an answer, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        [choice] = answer.json()["choices"]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    lines = [line[6:] for line in answer.text.split("\n\n") if line[6:7] == "{"]
    choices = [choice for line in lines for choice in orjson.loads(line)["choices"]]
    return "".join(one["delta"].get("content") or "" if "delta" in one else one["text"]
                   for one in choices)  # fmt: skip


@pytest.fixture
async def border(
    make: Make, database: Database, request: pytest.FixtureRequest
) -> AsyncIterator[Border]:
    """Nothing here answers, so all that may leave does. Secrets come back too: see the echo.

    A parameter is more of the configuration's group `privacy`.
    """
    down = EngineUnavailable("The model is not available now.")
    store, tenant = KeyStore(database, SECRET), secrets.token_hex(8)
    keys = {one: await store.create(tenant, one, privacy=one) for one in CLASSES}
    async with StandIn(echo) as provider:
        model = {
            "model": "large", "stands_in_for": ["chat"], "context_tokens": 100_000,
            "json_schema": True, "completions": True, "seed": True,
        }  # fmt: skip
        near = {
            "name": "near", "kind": "openai", "base_url": f"{provider.url}/v1",
            "api_key": "sk-theirs", "models": [model],
        }  # fmt: skip
        backend = make(
            ScriptedEngine(down),
            embedder=FakeEmbedder(down),
            detector=Patterns(),
            overflow={"providers": [near], "max_share": 1.0},
            privacy={"actions": {"SECRET": "mask"}} | getattr(request, "param", {}),
        )
        issued = {one: key.key.get_secret_value() for one, key in keys.items()}
        yield Border(backend, provider, tenant, issued)
