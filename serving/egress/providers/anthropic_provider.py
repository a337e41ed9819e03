"""Anthropic, asked as if it were OpenAI, over the `anthropic` client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2
import orjson
from anthropic import AnthropicError, AsyncAnthropic, AsyncStream

from models.engine import Usage
from models.openai_stream import Chunk
from serving.egress.providers.anthropic_events import MessageAnswer
from serving.egress.providers.anthropic_messages import AnthropicDialect, converted
from serving.egress.providers.exchange import Exchange
from serving.egress.providers.first_chunk import Beginning
from serving.egress.providers.openai_answer import head
from serving.egress.providers.provider import (
    Gate,
    Observe,
    ProviderRejected,
    ProviderRequest,
    Received,
)
from serving.egress.providers.transport import Connections, Destination

ANTHROPIC_URL = "https://api.anthropic.com"

_DEFAULT = AnthropicDialect()


def anthropic_destination(
    api_key: str,
    url: str = ANTHROPIC_URL,
    *,
    dialect: AnthropicDialect = _DEFAULT,
    allow_http: bool = False,
) -> Destination:
    """Anthropic, or a server that speaks its API, by what stands before `/v1/messages`."""
    headers = {"x-api-key": api_key, "anthropic-version": dialect.version}
    return Destination(url.rstrip("/"), headers, allow_http=allow_http)


class AnthropicProvider:
    """A server that speaks Anthropic's messages API.

    Args:
        outlet: where it is, and our key there.
        dialect: what its version and models allow.
    """

    def __init__(self, outlet: Connections, dialect: AnthropicDialect = _DEFAULT) -> None:
        self._outlet = outlet
        self._dialect = dialect

    async def generate(
        self, request: ProviderRequest, *, gate: Gate, observe: Observe, received: Received
    ) -> AsyncGenerator[Chunk | Usage, None]:
        """See `Provider.generate`."""
        if request.kind != "chat":
            raise ProviderRejected("Anthropic's API has conversations only", code="completions")
        conversion = converted(
            request.body,
            model=request.model,
            dialect=self._dialect,
            answer_tokens=request.answer_tokens,
        )
        content = orjson.dumps(conversion.body)
        answer, beginning = MessageAnswer(head(request), conversion.tools), Beginning()
        exchange = Exchange(
            self._outlet,
            request,
            gate=gate,
            observe=observe,
            received=received,
            client_error=AnthropicError,
        )

        async def ask(client: httpx2.AsyncClient, limits: httpx2.Timeout) -> AsyncStream[object]:
            return await self._client(client).post(
                "/v1/messages",
                cast_to=object,
                content=content,
                options={"timeout": limits},
                stream=True,
                stream_cls=AsyncStream[object],
            )

        async with aclosing(exchange.events(ask)) as events:
            async for event in events:
                for chunk in answer.chunks(event):
                    for passed in beginning.passed(chunk):
                        yield passed
        yield answer.usage()

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self._outlet.aclose()

    def _client(self, client: httpx2.AsyncClient) -> AsyncAnthropic:
        return AsyncAnthropic(
            api_key="known-to-the-door-only",
            base_url=self._outlet.destination.url,
            http_client=client,
            max_retries=0,
            open_telemetry=False,
        )
