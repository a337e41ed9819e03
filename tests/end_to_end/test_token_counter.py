"""The gateway's count of a prompt equals the engine's, which is billed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.catalog import builtin
from models.prepare import prepare
from models.tokens.token_counter import LocalCounter
from serving.gateway.wire.chat import ChatRequest, CompletionRequest
from tests.end_to_end.backend import EMBEDDER, MODEL

pytestmark = pytest.mark.engine

USER = {"role": "user", "content": "What is the weather in Łódź? 🙂"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CHATS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [USER]},
    "system": {"messages": [{"role": "developer", "content": "Be brief."}, USER], "n": 2},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "One"}] * 2}]},
    "tools": {"messages": [USER], "tools": TOOLS},
    "tools unwanted": {"messages": [USER], "tools": TOOLS, "tool_choice": "none"},
    "tool results": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "17 °C", "tool_call_id": "a"},
        ],
        "tools": TOOLS,
    },
    "reasoning": {
        "messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "Hm."}, USER],
        "reasoning_effort": "low",
    },
    "control tokens": {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>x"}]},
    "long": {"messages": [{"role": "user", "content": "A text of many words. " * 250}]},
}
PROMPTS: dict[str, Any] = {
    "text": "Once upon a time 日本",
    "texts": ["Once", "upon a time, twice"],
    "token ids": [1, 2, 3],
    "lists of token ids": [[1, 2, 3], [4]],
}


@pytest.fixture(scope="module")
def local(weights: Path) -> LocalCounter:
    return LocalCounter(builtin()[MODEL], weights)


def billed(http: httpx.Client, path: str, body: dict[str, Any]) -> int:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    tokens: int = answer.json()["usage"]["prompt_tokens"]
    return tokens


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_chat_is_counted_as_the_engine_bills_it(
    http: httpx.Client, local: LocalCounter, fields: dict[str, Any]
) -> None:
    body = {"model": MODEL, "max_tokens": 1} | fields
    counted = asyncio.run(local.count("chat", ChatRequest.model_validate(body).to_engine()))
    assert counted == billed(http, "/v1/chat/completions", body)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("n", [1, 2])
def test_completion_is_counted_as_the_engine_bills_it(
    http: httpx.Client, local: LocalCounter, prompt: Any, n: int
) -> None:
    body = {"model": MODEL, "max_tokens": 1, "prompt": prompt, "n": n}
    engine_body = CompletionRequest.model_validate(body).to_engine()
    counted = asyncio.run(local.count("completion", engine_body))
    assert counted == billed(http, "/v1/completions", body)


def test_embedding_is_counted_as_the_embedder_bills_it(http: httpx.Client, tmp_path: Path) -> None:
    spec = builtin()[EMBEDDER]
    local = LocalCounter(spec, prepare(spec, tmp_path))
    inputs = ["A cat.", "日本語 É 🙂", "word " * 200]
    counted = asyncio.run(local.count_texts(inputs))
    assert counted == billed(http, "/v1/embeddings", {"model": EMBEDDER, "input": inputs})
