"""Chat and completions end to end: what reaches the engine, and what comes back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.engine import (
    ContextLengthExceeded,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    GenerationRequest,
    RequestRejected,
    Usage,
)
from serving.pipeline import COLLECTED_STREAM_INTERVAL
from tests.serving.conftest import Backend, Keys, Make
from tests.serving.fakes import (
    HELLO,
    ROLE,
    STOP,
    USAGE,
    WHOLE,
    ScriptedEngine,
    text_frame,
    usage_frame,
)

USER = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
DONE = "data: [DONE]"


def events(text: str) -> list[Any]:
    """Parse the JSON of each event, without `[DONE]`."""
    lines = [line for line in text.split("\n\n") if line and line != DONE]
    return [orjson.loads(line.removeprefix("data: ")) for line in lines]


def collected(chunks: list[Any], *, chat: bool) -> Any:
    """Assemble a stream into OpenAI's unstreamed answer, as a client does."""
    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") if chat else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + (piece or "")
            if choice["finish_reason"]:
                finishes[choice["index"]] = choice["finish_reason"]
    return {index: (texts[index], finishes[index]) for index in sorted(texts)}


def unstreamed(answer: Any, *, chat: bool) -> Any:
    return {
        choice["index"]: (
            choice["message"]["content"] if chat else choice["text"],
            choice["finish_reason"],
        )
        for choice in answer["choices"]
    }


async def test_stream_opens_with_the_role_keeps_one_id_and_ends_with_done(
    backend: Backend,
) -> None:
    answer = await backend.chat(stream=True, max_tokens=5)
    chunks = events(answer.text)
    assert answer.text.endswith(f"\n\n{DONE}\n\n")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * 5 + ["length"]


async def test_stream_shows_usage_last_and_without_choices_when_asked(backend: Backend) -> None:
    answer = await backend.chat(stream=True, stream_options={"include_usage": True}, max_tokens=5)
    *chunks, last = events(answer.text)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}])
async def test_stream_shows_no_usage_unless_asked(
    backend: Backend, options: dict[str, Any]
) -> None:
    answer = await backend.chat(stream=True, max_tokens=5, **options)
    assert "usage" not in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ],
    ids=["unstreamed", "streamed", "asked"],
)
async def test_usage_is_metered_whether_asked_or_not(
    backend: Backend, fields: dict[str, Any]
) -> None:
    await backend.chat(max_tokens=5, n=2, **fields)
    tokens = 'ringfence_tokens_total{kind="%s",model="chat"}'
    prompt = len("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert await backend.metric(tokens % "completion") == 10
    assert await backend.metric(tokens % "prompt") == prompt


async def test_usage_of_the_answer_equals_what_is_metered(backend: Backend) -> None:
    usage = (await backend.complete(prompt=["Hi", "Hello"], n=2, max_tokens=3)).json()["usage"]
    assert usage == {
        "prompt_tokens": 7,
        "completion_tokens": 12,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    tokens = 'ringfence_tokens_total{kind="completion",model="chat"}'
    assert await backend.metric(tokens) == 12


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 1},
        {"n": 2, "max_tokens": 40},
        {"stop": ["quiet", " river", "."]},
        {"seed": 7, "ignore_eos": True, "max_completion_tokens": 70},
    ],
    ids=["plain", "one_token", "n", "stop", "seed"],
)
async def test_streamed_chat_says_what_the_unstreamed_says(
    backend: Backend, fields: dict[str, Any]
) -> None:
    streamed = events((await backend.chat(stream=True, **fields)).text)
    whole = (await backend.chat(**fields)).json()
    assert collected(streamed, chat=True) == unstreamed(whole, chat=True)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"prompt": ["Hi", "Hello", "Good morning"]},
        {"prompt": ["Hi", "Hello"], "n": 2, "max_tokens": 5},
        {"prompt": [72, 105]},
        {"prompt": [[72, 105], [72]]},
    ],
    ids=["plain", "n", "prompts", "prompts_n", "ids", "id_lists"],
)
async def test_streamed_completion_says_what_the_unstreamed_says(
    backend: Backend, fields: dict[str, Any]
) -> None:
    streamed = events((await backend.complete(stream=True, **fields)).text)
    whole = (await backend.complete(**fields)).json()
    assert collected(streamed, chat=False) == unstreamed(whole, chat=False)


async def test_unstreamed_chat_has_openai_s_shape(make: Make) -> None:
    answer = (await make(ScriptedEngine(*WHOLE)).chat()).json()
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


async def test_unstreamed_completion_has_openai_s_shape(make: Make) -> None:
    engine = ScriptedEngine(text_frame("Hel"), text_frame("lo", finish="length"), usage_frame(),
                            USAGE)  # fmt: skip
    assert (await make(engine).complete()).json() == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


async def reached(make: Make, path: str, body: dict[str, Any], **headers: str) -> GenerationRequest:
    """Return the request that the engine received."""
    engine = ScriptedEngine(*WHOLE)
    answer = await make(engine).post(path, {"model": "chat"} | body, **headers)
    assert answer.status_code == 200, answer.text
    return engine.requests[0]


UNSAFE: dict[str, Any] = {
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "guided_json": {"type": "object"},
    "guided_regex": ".*",
    "guided_decoding_backend": "outlines",
    "structured_outputs": {"regex": ".*"},
    "kv_transfer_params": {"do_remote_decode": True},
    "cache_salt": "chosen by the client",
    "priority": -1,
    "vllm_xargs": {"a": 1},
    "mm_processor_kwargs": {"a": 1},
    "documents": [{"text": "a"}],
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 1,
    "prompt_logprobs": 5,
    "prompt_embeds": "AAAA",
    "allowed_token_ids": [1],
    "bad_words": ["a"],
    "logits_processors": ["os.system"],
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "request_id": "chosen by the client",
    "stream_interval": 1000,
    "data_parallel_rank": 3,
    "lora_request": "other",
    "use_beam_search": True,
    "length_penalty": 2,
    "detokenize": False,
    "response_role": "system",
    "echo_": True,
    "store": True,
    "metadata": {"a": "b"},
    "user": "me",
    "service_tier": "flex",
    "unknown": 1,
}


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/chat/completions", {"messages": [USER]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ],
)
async def test_fields_that_are_not_allowed_do_not_reach_the_engine(
    make: Make, path: str, prompt: dict[str, Any]
) -> None:
    request = await reached(make, path, UNSAFE | prompt)
    assert request.body.keys() == {"model", "cache_salt", "stream_options", *prompt}
    assert request.body["cache_salt"] != "chosen by the client"
    assert request.request_id != "chosen by the client"
    assert request.stream_interval == COLLECTED_STREAM_INTERVAL


async def test_fields_that_are_allowed_reach_the_engine_unchanged(make: Make) -> None:
    schema = {"type": "object", "properties": {"a": {"const": None}}}
    fields: dict[str, Any] = {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 1, "presence_penalty": -1,
        "seed": 7, "stop": ["x"], "logit_bias": {"5": -100}, "max_tokens": 5, "top_k": 10,
        "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1, "ignore_eos": True,
        "stop_token_ids": [2], "max_completion_tokens": 6, "logprobs": True, "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        "tools": [FUNCTION], "parallel_tool_calls": False, "reasoning_effort": "low",
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }  # fmt: skip
    request = await reached(make, "/v1/chat/completions", {"messages": [USER]} | fields)
    assert fields.items() <= request.body.items()


async def test_messages_reach_the_engine_as_plain_text(make: Make) -> None:
    parts = [{"type": "text", "text": "a\x00"}, {"type": "input_text", "text": "b"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "boss", "cache_control": {}},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call], "audio": None},
        {"role": "tool", "tool_call_id": "1", "content": "1"},
    ]
    request = await reached(make, "/v1/chat/completions", {"messages": messages})
    assert request.body["messages"] == [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": "a\x00\nb"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "1"},
    ]


async def test_cache_salt_differs_by_tenant_and_not_by_request(make: Make, keys: Keys) -> None:
    engine = ScriptedEngine(*WHOLE)
    backend = make(engine)
    for key in (keys.acme, keys.acme, keys.globex):
        await backend.chat(key=key)
    first, second, other = (request.body["cache_salt"] for request in engine.requests)
    assert first == second
    assert first != other


async def test_stream_reaches_the_engine_token_by_token(make: Make) -> None:
    request = await reached(make, "/v1/chat/completions", {"messages": [USER], "stream": True})
    assert request.stream_interval == 1


async def test_request_ids_of_the_engine_are_our_own_and_unique(make: Make) -> None:
    engine = ScriptedEngine(*WHOLE)
    backend = make(engine)
    for _ in range(2):
        await backend.post(
            "/v1/completions", {"model": "chat", "prompt": "Hi"}, **{"x-request-id": "same"}
        )
    assert len({request.request_id for request in engine.requests} | {"same"}) == 3


FAILURES = [
    (RequestRejected("No.", param="top_p"), 400, "invalid_request_error", None, "top_p", None),
    (ContextLengthExceeded("Too long.", param="messages"), 400, "invalid_request_error",
     "context_length_exceeded", "messages", None),
    (EngineOverloaded("Busy."), 503, "server_error", "overloaded", None, "1"),
    (EngineUnavailable("Gone."), 503, "server_error", "model_unavailable", None, "5"),
    (EngineTimeout("Slow."), 503, "server_error", "engine_timeout", None, "5"),
    (EngineFailed("Broke."), 500, "server_error", "engine_failed", None, None),
    (RuntimeError("a bug"), 500, "server_error", "internal_error", None, None),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["unstreamed", "streamed"])
@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param", "retry_after"),
    FAILURES,
    ids=[type(failure[0]).__name__ for failure in FAILURES],
)
async def test_failure_before_the_first_delta_has_a_status_of_its_own(
    make: Make, *, stream: bool, error: Exception, status: int, kind: str, code: str | None,
    param: str | None, retry_after: str | None,
) -> None:  # fmt: skip
    answer = await make(ScriptedEngine(error)).chat(stream=stream)
    told = answer.json()["error"]
    assert answer.status_code == status
    assert (told["type"], told["code"], told["param"]) == (kind, code, param)
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "code"),
    [(failure[0], failure[3]) for failure in FAILURES],
    ids=[type(failure[0]).__name__ for failure in FAILURES],
)
async def test_failure_after_the_first_delta_is_the_last_event_and_done_is_not_sent(
    make: Make, error: Exception, code: str | None
) -> None:
    answer = await make(ScriptedEngine(ROLE, HELLO, error)).chat(stream=True)
    *_, last = events(answer.text)
    assert answer.status_code == 200
    assert answer.content.startswith(ROLE + HELLO)
    assert DONE not in answer.text
    assert last.keys() == {"error"}
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert last["error"]["code"] == code


@pytest.mark.parametrize("error", [EngineFailed("Broke."), RuntimeError("a bug")])
async def test_failure_after_some_deltas_of_an_unstreamed_answer_is_an_error(
    make: Make, error: Exception
) -> None:
    answer = await make(ScriptedEngine(ROLE, HELLO, error)).chat()
    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("script", [(), (USAGE,)], ids=["nothing", "usage_alone"])
async def test_engine_that_sends_no_answer_has_failed(
    make: Make, script: tuple[Usage, ...]
) -> None:
    answer = await make(ScriptedEngine(*script)).chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")


async def test_answer_without_a_usage_record_is_not_called_done(make: Make) -> None:
    answer = await make(ScriptedEngine(ROLE, HELLO, STOP)).chat(stream=True)
    assert events(answer.text)[-1]["error"]["code"] == "engine_failed"
    assert DONE not in answer.text


@pytest.mark.parametrize("stream", [False, True], ids=["unstreamed", "streamed"])
async def test_answer_says_that_it_was_made_here(backend: Backend, *, stream: bool) -> None:
    headers = (await backend.chat(stream=stream, max_tokens=1)).headers
    assert headers["x-ringfence-route"] == "local"
    assert headers["x-ringfence-privacy"] == "local_only"


async def test_stream_is_not_to_be_cached_or_buffered(backend: Backend) -> None:
    headers = (await backend.chat(stream=True, max_tokens=1)).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("stream", [False, True], ids=["unstreamed", "streamed"])
async def test_unknown_model_is_never_answered_by_another(
    backend: Backend, *, stream: bool
) -> None:
    answer = await backend.chat(model="gpt-5", stream=stream)
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'gpt-5'" in error["message"]


async def test_model_that_a_key_may_not_use_does_not_exist_for_it(
    backend: Backend, keys: Keys
) -> None:
    denied = await backend.chat(key=keys.limited, model="chat")
    unknown = await backend.chat(key=keys.limited, model="nope")
    assert denied.status_code == 404
    assert denied.text == unknown.text.replace("nope", "chat")
    assert (await backend.chat(key=keys.limited, model="other", max_tokens=1)).status_code == 200
