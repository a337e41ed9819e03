"""`/tokenize` and `/detokenize` as vLLM has them."""

from __future__ import annotations

from typing import Any

import pytest

from models.engine import EngineUnavailable, RequestRejected, TokenizeRequest
from tests.serving.conftest import Backend, Keys, Make
from tests.serving.fakes import ScriptedEngine

USER = {"role": "user", "content": "Hi"}


async def asked(make: Make, **fields: Any) -> TokenizeRequest:
    engine = ScriptedEngine()
    answer = await make(engine).post("/tokenize", {"model": "chat"} | fields)
    assert answer.status_code == 200, answer.text
    return engine.tokenized[0]


async def test_prompt_is_counted_and_listed(make: Make) -> None:
    answer = await make(ScriptedEngine()).post("/tokenize", {"model": "chat", "prompt": "Hi"})
    assert answer.json() == {
        "count": 3, "max_model_len": 64, "tokens": [1, 2, 3], "token_strs": None
    }  # fmt: skip


async def test_token_strings_are_listed_on_request(make: Make) -> None:
    body = {"model": "chat", "prompt": "Hi", "return_token_strs": True}
    answer = await make(ScriptedEngine()).post("/tokenize", body)
    assert answer.json()["token_strs"] == ["a", "b", "c"]


async def test_prompt_reaches_the_engine(make: Make) -> None:
    assert await asked(make, prompt="Hi", add_special_tokens=False) == TokenizeRequest(
        prompt="Hi", add_special_tokens=False
    )


async def test_messages_and_tools_reach_the_engine(make: Make) -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    request = await asked(make, messages=[USER], tools=[tool], add_generation_prompt=False)
    assert request == TokenizeRequest(messages=[USER], tools=[tool], add_generation_prompt=False)


async def test_chat_template_of_the_client_does_not_reach_the_engine(make: Make) -> None:
    request = await asked(make, messages=[USER], chat_template="{{ 7 * 7 }}", documents=[{}])
    assert request == TokenizeRequest(messages=[USER])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [USER] * 9}, "messages"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {"name": "f"}}] * 9},
         "tools"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].tool_call_id"),
    ],
)  # fmt: skip
async def test_limits_of_chat_hold_here_too(make: Make, fields: dict[str, Any], param: str) -> None:
    backend = make(limits={"max_messages": 8, "max_tools": 8})
    answer = await backend.post("/tokenize", {"model": "chat"} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_detokenize_reverses_tokenize(backend: Backend) -> None:
    text = "Grüße, [simulated] forest\x00"
    tokens = (await backend.post("/tokenize", {"model": "chat", "prompt": text})).json()["tokens"]
    answer = await backend.post("/detokenize", {"model": "chat", "tokens": tokens})
    assert answer.json() == {"prompt": text}


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    ("error", "status"), [(RequestRejected("No.", param="tokens"), 400),
                          (EngineUnavailable("Gone."), 503)],
)  # fmt: skip
async def test_failure_of_the_engine_is_told(
    make: Make, path: str, error: Exception, status: int
) -> None:
    body = {"model": "chat", "prompt": "Hi", "tokens": [1]}
    assert (await make(ScriptedEngine(error)).post(path, body)).status_code == status


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_model_that_a_key_may_not_use_does_not_exist_for_it(
    backend: Backend, keys: Keys, path: str
) -> None:
    body = {"model": "chat", "prompt": "Hi", "tokens": [1]}
    answer = await backend.post(path, body, authorization=f"Bearer {keys.limited}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
