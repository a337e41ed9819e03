"""OpenAI, Azure OpenAI, and any server that speaks OpenAI's API, over the `openai` client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx2
import orjson
from openai import AsyncOpenAI, AsyncStream, OpenAIError

from models.engine import Kind, Usage
from models.openai_stream import WITH_USAGE, Chunk
from serving.egress.providers.exchange import Exchange
from serving.egress.providers.first_chunk import Beginning
from serving.egress.providers.openai_answer import OpenAIAnswer
from serving.egress.providers.provider import Gate, Observe, ProviderRequest, Received
from serving.egress.providers.transport import Connections, Destination

OPENAI_URL = "https://api.openai.com/v1"

_SHARED = (
    "n", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop",
    "logit_bias", "logprobs",
)  # fmt: skip
FIELDS: dict[Kind, tuple[str, ...]] = {
    "chat": (
        *_SHARED, "messages", "top_logprobs", "response_format", "tools", "tool_choice",
        "parallel_tool_calls", "reasoning_effort",
    ),
    "completion": (*_SHARED, "prompt", "echo", "suffix", "best_of"),
}  # fmt: skip
"""What is sent of a request, besides model, length and stream. Of OpenAI's fields those that name
a user, or have the provider keep something, are not among it; vLLM's and ours are not either."""

MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")

_PATHS: dict[Kind, str] = {"chat": "/chat/completions", "completion": "/completions"}


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """The differences of a server from OpenAI's.

    Attributes:
        length_field: what a chat request calls the most tokens of its answer.
        extra: fields of requests that it takes too.
        without: fields that its models refuse.
        constants: fields that each request gets, whatever it says.
        deployments: its paths name the model, as Azure's do without `v1`.
    """

    length_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    extra: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    deployments: bool = False


OPENAI = OpenAIDialect(length_field="max_completion_tokens")
AZURE_DEPLOYMENTS = OpenAIDialect(length_field="max_completion_tokens", deployments=True)


def openai_destination(
    api_key: str, url: str = OPENAI_URL, *, allow_http: bool = False
) -> Destination:
    """OpenAI, or the root of a compatible server (it ends with `/v1`, as a rule)."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return Destination(url.rstrip("/"), headers, allow_http=allow_http)


def azure_destination(
    api_key: str, endpoint: str, *, api_version: str | None = None, allow_http: bool = False
) -> Destination:
    """A resource of Azure OpenAI, by its endpoint `https://<name>.openai.azure.com`.

    Without `api_version` it is the v1 API; with it, the one of deployments, which needs the
    dialect `AZURE_DEPLOYMENTS`.
    """
    path, query = ("/openai/v1", {}) if api_version is None else (
        "/openai", {"api-version": api_version}
    )  # fmt: skip
    return Destination(
        endpoint.rstrip("/") + path, {"api-key": api_key}, allow_http=allow_http, query=query
    )


class OpenAIProvider:
    """A server that speaks OpenAI's API.

    Args:
        outlet: where it is, and our key there.
        dialect: in what it differs.
    """

    def __init__(self, outlet: Connections, dialect: OpenAIDialect = OPENAI) -> None:
        self._outlet = outlet
        self._dialect = dialect

    async def generate(
        self, request: ProviderRequest, *, gate: Gate, observe: Observe, received: Received
    ) -> AsyncGenerator[Chunk | Usage, None]:
        """See `Provider.generate`."""
        body = openai_body(request, self._dialect)
        answer, beginning = OpenAIAnswer(request, choices=_choices(request)), Beginning()
        exchange = Exchange(
            self._outlet,
            request,
            gate=gate,
            observe=observe,
            received=received,
            client_error=OpenAIError,
        )
        content = orjson.dumps(body)
        path = self._path(request)

        async def ask(client: httpx2.AsyncClient, limits: httpx2.Timeout) -> AsyncStream[object]:
            return await self._client(client).post(
                path,
                cast_to=object,
                content=content,
                options={"timeout": limits},
                stream=True,
                stream_cls=AsyncStream[object],
            )

        async with aclosing(exchange.events(ask)) as events:
            async for event in events:
                if (chunk := answer.chunk(event)) is not None:
                    for passed in beginning.passed(chunk):
                        yield passed
        yield answer.usage()

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self._outlet.aclose()

    def _client(self, client: httpx2.AsyncClient) -> AsyncOpenAI:
        destination = self._outlet.destination
        return AsyncOpenAI(
            api_key="known-to-the-door-only",
            base_url=destination.url,
            default_query=dict(destination.query),
            http_client=client,
            max_retries=0,
        )

    def _path(self, request: ProviderRequest) -> str:
        path = _PATHS[request.kind]
        if not self._dialect.deployments:
            return path
        return f"/deployments/{quote(request.model, safe='')}{path}"


def openai_body(request: ProviderRequest, dialect: OpenAIDialect) -> dict[str, Any]:
    """The body that is sent for a request: always a stream, with usage at its end."""
    given = request.body
    allowed = set(FIELDS[request.kind]) | dialect.extra
    body = {name: value for name, value in given.items() if name in allowed}
    if "messages" in body:
        body["messages"] = [
            {name: value for name, value in message.items() if name in MESSAGE_FIELDS}
            for message in body["messages"]
        ]
    if most := given.get("max_completion_tokens") or given.get("max_tokens"):
        body[dialect.length_field if request.kind == "chat" else "max_tokens"] = most
    body = {name: value for name, value in body.items() if name not in dialect.without}
    return (
        {"model": request.model} | body | {"stream": True, **WITH_USAGE} | dict(dialect.constants)
    )


def _choices(request: ProviderRequest) -> int:
    """Count the answers that a request asks for, over all prompts."""
    n = request.body.get("n") or 1
    prompt = request.body.get("prompt")
    if request.kind == "chat" or not isinstance(prompt, list) or isinstance(prompt[0], int):
        return int(n)
    return int(n) * len(prompt)
