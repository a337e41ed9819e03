"""Helpers for tests of providers: a gate that records, and a complete call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from models.engine import Usage
from models.openai_stream import Chunk
from serving.egress.providers.anthropic_provider import AnthropicProvider, anthropic_destination
from serving.egress.providers.openai_provider import (
    OpenAIDialect,
    OpenAIProvider,
    openai_destination,
)
from serving.egress.providers.provider import (
    Deadlines,
    Departure,
    Provider,
    ProviderHeadroom,
    ProviderRequest,
)
from serving.egress.providers.transport import AnswerBounds, Connections
from tests.serving.egress.standin import Script, StandIn

PATIENT = Deadlines()
"""Those of production: a test that is to meet one lowers that one alone."""

MESSAGES = [{"role": "user", "content": "canary-prompt"}]
KEY = "key-of-the-test"


@dataclass
class Border:
    """A gate that admits everything, or raises a given error."""

    forbids: Exception | None = None
    waits_s: float = 0.0
    departures: list[Departure] = field(default_factory=list)
    told: list[ProviderHeadroom] = field(default_factory=list)

    received_bytes: int = 0

    def receive(self, length: int) -> None:
        self.received_bytes += length

    async def gate(self, departure: Departure) -> None:
        await asyncio.sleep(self.waits_s)
        if self.forbids is not None:
            raise self.forbids
        self.departures.append(departure)


def request(
    body: dict[str, Any] | None = None, *, deadlines: Deadlines = PATIENT, **rest: Any
) -> ProviderRequest:
    given = {"messages": MESSAGES} if body is None else body
    fields = {"request_id": "r1", "kind": "chat", "model": "there"} | rest
    return ProviderRequest(body=given, deadlines=deadlines, **fields)


async def collect(
    provider: Provider, asked: ProviderRequest | None = None, border: Border | None = None
) -> tuple[list[Chunk], Usage]:
    border = border or Border()
    generator = provider.generate(
        asked or request(), gate=border.gate, observe=border.told.append, received=border.receive
    )
    async with aclosing(generator) as items:
        got = [item async for item in items]
    *chunks, usage = got
    assert isinstance(usage, Usage)
    assert all(isinstance(chunk, dict) for chunk in chunks)
    return chunks, usage  # type: ignore[return-value]


@asynccontextmanager
async def openai_at(
    *script: Script, dialect: OpenAIDialect | None = None, bounds: AnswerBounds | None = None
) -> AsyncIterator[tuple[StandIn, OpenAIProvider]]:
    async with StandIn(*script) as server:
        outlet = Connections(openai_destination(KEY, server.url + "/v1"), bounds=bounds)
        provider = OpenAIProvider(outlet, dialect or OpenAIDialect())
        yield server, provider
        await provider.aclose()


@asynccontextmanager
async def anthropic_at(
    *script: Script, bounds: AnswerBounds | None = None
) -> AsyncIterator[tuple[StandIn, AnthropicProvider]]:
    async with StandIn(*script) as server:
        outlet = Connections(anthropic_destination(KEY, server.url), bounds=bounds)
        provider = AnthropicProvider(outlet)
        yield server, provider
        await provider.aclose()


def deltas(chunks: Sequence[Chunk], name: str = "content") -> str:
    """Join the text of one kind in all chunks."""
    return "".join(
        choice["delta"].get(name) or "" for chunk in chunks for choice in chunk["choices"]
    )
