from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.engine import Usage
from serving.egress.providers.openai_provider import (
    AZURE_DEPLOYMENTS,
    OPENAI,
    OpenAIDialect,
    OpenAIProvider,
    azure_destination,
    openai_body,
)
from serving.egress.providers.provider import ProviderBroken
from serving.egress.providers.transport import Connections
from tests.serving.egress.calls import KEY, MESSAGES, Border, collect, deltas, openai_at, request
from tests.serving.egress.standin import StandIn
from tests.serving.egress.wire_format import HELLO, Answer, echoes_openai, every, sse, streams

WHOLE = sse(*HELLO.openai())


def choice(**rest: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}} | rest]}


TOKENS: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 1}
USAGE: dict[str, Any] = {"choices": [], "usage": TOKENS}
STOP = choice(finish_reason="stop")


async def test_openai_answers_with_chunks_and_usage() -> None:
    async with openai_at(streams(WHOLE)) as (server, provider):
        chunks, usage = await collect(provider)

    assert deltas(chunks) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3 + ["stop"]
    assert usage == Usage(7, 2)
    assert server.received[0].target == "/v1/chat/completions"


async def test_openai_chunks_hold_nothing_of_the_providers_envelope() -> None:
    answer = Answer(extra={"system_fingerprint": "fp", "service_tier": "default", "x": {"y": 1}})
    async with openai_at(streams(sse(*answer.openai()))) as (_, provider):
        chunks, _ = await collect(provider)

    assert {frozenset(chunk) for chunk in chunks} == {
        frozenset({"id", "object", "created", "model", "choices"})
    }
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r1"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_openai_answers_are_the_same_in_pieces_of_any_size(size: int) -> None:
    body = sse(*Answer(("Grüße", " 你好", " 🙂")).openai())
    async with openai_at(streams(body, cuts=every(size, body))) as (_, provider):
        chunks, usage = await collect(provider)

    assert deltas(chunks) == "Grüße 你好 🙂"
    assert usage == Usage(7, 2)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
async def test_openai_answers_may_have_any_line_ends(line_end: bytes) -> None:
    body = b": comment\n\n" + WHOLE
    async with openai_at(streams(body.replace(b"\n", line_end))) as (_, provider):
        chunks, _ = await collect(provider)

    assert deltas(chunks) == "Hello there"


async def test_openai_completions_are_answered_too() -> None:
    body = {"prompt": "canary-prompt", "max_tokens": 5}
    async with openai_at(streams(sse(*HELLO.text()))) as (server, provider):
        chunks, usage = await collect(provider, request(body, kind="completion"))

    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello there"
    assert chunks[0]["object"] == "text_completion"
    assert usage == Usage(7, 2)
    assert server.received[0].target == "/v1/completions"
    assert server.received[0].json()["max_tokens"] == 5


async def test_openai_passes_tool_calls_reasoning_and_logprobs_on() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    events = [
        choice(delta={"reasoning": "hm"}),
        choice(delta={"tool_calls": [call]}),
        choice(delta={"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        choice(delta={"content": "x"}, logprobs={"content": [{"token": "x", "logprob": -1.0}]}),
        choice(finish_reason="tool_calls"),
        {"choices": [], "usage": TOKENS | {"prompt_tokens_details": {"cached_tokens": 1}}},
    ]
    async with openai_at(streams(sse(*events))) as (_, provider):
        chunks, usage = await collect(provider)

    told = [chunk["choices"][0] for chunk in chunks]
    assert told[0]["delta"] == {"reasoning_content": "hm"}
    assert told[1]["delta"] == {"tool_calls": [call]}
    assert told[2]["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    assert told[3]["logprobs"]["content"][0]["token"] == "x"
    assert usage == Usage(1, 1, 1)


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "arguments": None}])
async def test_openai_opens_tool_calls_with_empty_arguments(function: dict[str, Any]) -> None:
    call = {"index": 0, "id": "c1", "type": "function"}
    events = [
        choice(delta={"tool_calls": [call | {"function": function}]}),
        choice(finish_reason="tool_calls"),
        USAGE,
    ]
    async with openai_at(streams(sse(*events))) as (_, provider):
        chunks, _ = await collect(provider)
    opened = call | {"function": {"name": "f", "arguments": ""}}
    assert chunks[0]["choices"][0]["delta"] == {"tool_calls": [opened]}


async def test_openai_waits_for_every_choice_to_finish() -> None:
    one, two = choice(index=0, finish_reason="stop"), choice(index=1, finish_reason="length")
    scripts = [streams(sse(*events)) for events in ([one, two, USAGE], [one, USAGE])]
    async with openai_at(*scripts) as (_, provider):
        asked = request({"messages": MESSAGES, "n": 2})
        chunks, _ = await collect(provider, asked)
        assert len(chunks) == 2
        with pytest.raises(ProviderBroken, match="cut short"):
            await collect(provider, asked)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([choice(delta={"content": "x"}), USAGE], "cut"),
        ([STOP], "no_usage"),
        ([{"choices": "no"}], "malformed"),
        ([{"choices": [{"index": 0, "delta": {"content": 5}}]}], "malformed"),
        ([{"choices": [{"index": 0}]}], "malformed"),
        ([choice(index=1)], "malformed"),
        ([{"unknown": 1}], "malformed"),
        ([choice(finish_reason="error")], "finish_reason"),
        ([STOP, {"choices": [], "usage": {"prompt_tokens": -1}}], "malformed"),
    ],
)
async def test_openai_refuses_an_answer_that_is_not_whole(
    events: list[dict[str, Any]], code: str
) -> None:
    async with openai_at(streams(sse(*events))) as (_, provider):
        with pytest.raises(ProviderBroken) as caught:
            await collect(provider)

    assert caught.value.code == code


async def test_openai_takes_a_whole_answer_without_its_last_mark() -> None:
    async with openai_at(streams(sse(*HELLO.openai(), done=False))) as (_, provider):
        chunks, usage = await collect(provider)

    assert deltas(chunks) == "Hello there"
    assert usage == Usage(7, 2)


def test_openai_is_sent_known_fields_only() -> None:
    given = {
        "messages": [{"role": "user", "content": "x", "reasoning_content": "y", "z": 1}],
        "temperature": 0.5,
        "max_tokens": 9,
        "user": "someone",
        "metadata": {"a": "b"},
        "store": True,
        "top_k": 3,
        "cache_salt": "salt",
        "privacy": "open",
        "stream": False,
        "stream_options": {"include_usage": False},
    }

    assert openai_body(request(given), OPENAI) == {
        "model": "there",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_openai_dialects_add_remove_and_fix_fields() -> None:
    dialect = OpenAIDialect(
        extra=frozenset({"top_k"}), without=frozenset({"seed"}), constants={"store": False}
    )
    given = {"messages": MESSAGES, "top_k": 3, "seed": 1, "max_completion_tokens": 9}

    body = openai_body(request(given), dialect)

    assert body["top_k"] == 3
    assert body["store"] is False
    assert body["max_tokens"] == 9
    assert "seed" not in body


@pytest.mark.parametrize(
    ("api_version", "target"),
    [
        (None, "/openai/v1/chat/completions"),
        (
            "2025-04-01",
            "/openai/deployments/there/chat/completions?api-version=2025-04-01",
        ),
    ],
)
async def test_azure_is_reached_by_resource_or_by_deployment(
    api_version: str | None, target: str
) -> None:
    filtered = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    async with StandIn(streams(sse(filtered, *HELLO.openai()))) as server:
        destination = azure_destination(KEY, server.url, api_version=api_version)
        dialect = OPENAI if api_version is None else AZURE_DEPLOYMENTS
        provider = OpenAIProvider(Connections(destination), dialect)
        chunks, _ = await collect(provider)
        await provider.aclose()

    assert deltas(chunks) == "Hello there"
    assert server.received[0].target == target
    assert server.received[0].headers["api-key"] == KEY
    assert "authorization" not in server.received[0].headers


async def test_openai_uses_one_connection_for_answers_one_after_another() -> None:
    async with openai_at(echoes_openai) as (server, provider):
        for text in ("one two", "three four"):
            border = Border()
            asked = request({"messages": [{"role": "user", "content": text}]})
            chunks, _ = await collect(provider, asked, border)
            assert deltas(chunks) == text.replace(" ", "")
            assert orjson.loads(border.departures[0].body)["messages"][0]["content"] == text

    assert server.connections == 1
