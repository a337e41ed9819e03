"""Invalid request bodies and their errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serving.domain.errors import InvalidRequest
from serving.gateway import body
from serving.gateway.body import MAX_CONTAINERS, check_schemas, parse
from serving.gateway.wire.chat import ChatRequest, CompletionRequest
from tests.serving.conftest import FIXED_KEY, Backend, Make
from tests.serving.fakes import WHOLE, ScriptedEngine
from tests.serving.live import Connection, head, listening

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
UNSUPPORTED = "unsupported_parameter"


@dataclass(frozen=True, slots=True)
class Case:
    """A body that is refused with 400."""

    name: str
    path: str
    body: Any
    param: str | None
    code: str | None = None


def chat(name: str, param: str | None, *, code: str | None = None, **fields: Any) -> Case:
    return Case(name, CHAT, {"model": "chat", "messages": [USER]} | fields, param, code)


def completion(name: str, param: str | None, *, code: str | None = None, **fields: Any) -> Case:
    return Case(name, COMPLETIONS, {"model": "chat", "prompt": "Hi"} | fields, param, code)


def embedding(name: str, param: str | None, *, code: str | None = None, **fields: Any) -> Case:
    return Case(name, EMBEDDINGS, {"model": "embed", "input": "Hi"} | fields, param, code)


def raw(name: str, text: bytes) -> Case:
    return Case(name, CHAT, text, None)


def with_field(field: bytes, value: bytes) -> bytes:
    return b'{"model":"chat","messages":[{"role":"user","content":"Hi"}],"%b":%b}' % (field, value)


def schema(value: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": value} | fields}


def message(**fields: Any) -> list[Any]:
    return [USER, fields]


IN_SCHEMA = "response_format.json_schema.schema"

CASES = [
    raw("empty body", b""),
    raw("malformed JSON", b'{"model":'),
    raw("trailing comma", b'{"model":"chat",}'),
    raw("not UTF-8", b'{"model":"\xff"}'),
    raw("byte order mark", b'\xef\xbb\xbf{"model":"chat"}'),
    raw("NaN", with_field(b"temperature", b"NaN")),
    raw("Infinity", with_field(b"temperature", b"Infinity")),
    raw("infinity as 1e999", with_field(b"temperature", b"1e999")),
    raw("infinity in an unknown field", with_field(b"unknown", b"-1e999")),
    raw("lone surrogate", with_field(b"user", b'"\\ud800"')),
    raw("lone surrogate in the prompt", b'{"messages":[{"role":"user","content":"\\udfff"}]}'),
    raw("an array", b"[]"),
    raw("a string", b'"chat"'),
    raw("null", b"null"),
    raw("1,000 levels of arrays", with_field(b"x", b"[" * 1000 + b"]" * 1000)),
    raw("1,000 levels of objects", with_field(b"x", b'{"a":' * 1000 + b"1" + b"}" * 1000)),
    raw("100,000 levels", b"[" * 100_000),
    raw("60,000 arrays", with_field(b"x", b"[" + b"[]," * 60_000 + b"[]]")),
    raw("60,000 objects", with_field(b"x", b"[" + b"{}," * 60_000 + b"{}]")),
    Case("no fields", CHAT, {}, "model"),
    Case("no messages", CHAT, {"model": "chat"}, "messages"),
    chat("model is a number", "model", model=5),
    chat("model is empty", "model", model=""),
    chat("model is long", "model", model="m" * 257),
    chat("messages are null", "messages", messages=None),
    chat("messages are text", "messages", messages="Hi"),
    chat("messages are empty", "messages", messages=[]),
    chat("10,000 messages", "messages", messages=[USER] * 10_000),
    chat("message is text", "messages[1]", messages=[USER, "Hi"]),
    chat("unknown role", "messages[1].role", messages=message(role="robot", content="Hi")),
    chat("no role", "messages[1].role", messages=message(content="Hi")),
    chat("content is a number", "messages[1].content", messages=message(role="user", content=5)),
    chat("content is an object", "messages[1].content",
         messages=message(role="user", content={"type": "text", "text": "Hi"})),
    chat("part is text", "messages[1].content[0]", messages=message(role="user", content=["Hi"])),
    chat("part has no type", "messages[1].content[0]",
         messages=message(role="user", content=[{"text": "Hi"}])),
    chat("part is of an unknown type", "messages[1].content[0]",
         messages=message(role="user", content=[{"type": "hologram"}])),
    chat("part's text is a number", "messages[1].content[0].text",
         messages=message(role="user", content=[{"type": "text", "text": 5}])),
    chat("image", "messages[1].content", code=UNSUPPORTED, messages=message(
        role="user", content=[{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}])),
    chat("audio", "messages[1].content", code=UNSUPPORTED, messages=message(
        role="user", content=[{"type": "input_audio", "input_audio": {"data": ""}}])),
    chat("file", "messages[1].content", code=UNSUPPORTED, messages=message(
        role="user", content=[{"type": "file", "file": {"file_id": "f"}}])),
    chat("tool message without id", "messages[1].tool_call_id",
         messages=message(role="tool", content="Hi")),
    chat("tool call without arguments", "messages[1].tool_calls[0].function.arguments",
         messages=message(role="assistant", tool_calls=[{"id": "1", "function": {"name": "f"}}])),
    chat("negative max_tokens", "max_tokens", max_tokens=-1),
    chat("no max_tokens at all", "max_tokens", max_tokens=0),
    chat("huge max_tokens", "max_tokens", max_tokens=2**31),
    chat("max_tokens beyond 64 bits", "max_tokens", max_tokens=b"1" + b"0" * 30),
    chat("max_tokens is text", "max_tokens", max_tokens="5"),
    chat("max_tokens is a fraction", "max_tokens", max_tokens=1.5),
    chat("max_tokens is true", "max_tokens", max_tokens=True),
    chat("max_tokens over the context", "messages", code="context_length_exceeded",
         max_tokens=2**31 - 1),
    chat("prompt over the context", "messages", code="context_length_exceeded",
         messages=[USER | {"content": "word " * 1000}]),
    chat("negative max_completion_tokens", "max_completion_tokens", max_completion_tokens=-1),
    chat("temperature is text", "temperature", temperature="hot"),
    chat("temperature is too high", "temperature", temperature=2.1),
    chat("top_p is zero", "top_p", top_p=0),
    chat("penalty is too low", "presence_penalty", presence_penalty=-2.5),
    chat("seed beyond 64 bits", "seed", seed=2**63),
    chat("stream is text", "stream", stream="yes"),
    chat("n of a million", "n", n=1_000_000),
    chat("n is zero", "n", n=0),
    chat("many stops", "stop", stop=["a"] * 17),
    chat("empty stop", "stop", stop=""),
    chat("empty stop in a list", "stop", stop=["a", ""]),
    chat("long stop", "stop", stop="a" * 257),
    chat("stop is a number", "stop[1]", stop=["a", 5]),
    chat("bias of a word", "logit_bias", logit_bias={"word": 1}),
    chat("bias of a foreign digit", "logit_bias", logit_bias={"٣": 1}),
    chat("bias is too strong", "logit_bias.5", logit_bias={"5": 101}),
    chat("many biases", "logit_bias", logit_bias={str(i): 1 for i in range(1025)}),
    chat("top_logprobs without logprobs", "top_logprobs", top_logprobs=2),
    chat("many top_logprobs", "top_logprobs", logprobs=True, top_logprobs=21),
    chat("logprobs is a number", "logprobs", logprobs=1),
    chat("stream_options without stream", "stream_options",
         stream_options={"include_usage": True}),
    chat("stream_options is a flag", "stream_options", stream=True, stream_options=True),
    chat("unknown response_format", "response_format", response_format={"type": "xml"}),
    chat("response_format is text", "response_format", response_format="json"),
    chat("json_schema without schema", IN_SCHEMA,
         response_format={"type": "json_schema", "json_schema": {"name": "s"}}),
    chat("json_schema without name", "response_format.json_schema.name",
         response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
    chat("schema of an unknown type", IN_SCHEMA, response_format=schema({"type": "banana"})),
    chat("schema's required is text", IN_SCHEMA, response_format=schema({"required": "a"})),
    chat("schema's pattern is open", IN_SCHEMA, response_format=schema({"pattern": "("})),
    chat("schema's pattern is deep", IN_SCHEMA,
         response_format=schema({"pattern": "(" * 9000 + ")" * 9000})),
    chat("schema's pattern repeats too often", IN_SCHEMA,
         response_format=schema({"pattern": "a{99999999999999999999}"})),
    chat("external $ref", IN_SCHEMA,
         response_format=schema({"properties": {"a": {"$ref": "http://10.0.0.1/s.json"}}})),
    chat("$ref to a file", IN_SCHEMA,
         response_format=schema({"items": [{"$dynamicRef": "file:///etc/passwd"}]} and
                                {"anyOf": [{"$dynamicRef": "file:///etc/passwd"}]})),
    chat("schema too large", IN_SCHEMA,
         response_format=schema({"enum": ["x" * 70_000]})),
    chat("tool without function", "tools[0].function", tools=[{"type": "function"}]),
    chat("tool of another type", "tools[0].type", tools=[FUNCTION | {"type": "retrieval"}]),
    chat("tool's name", "tools[0].function.name",
         tools=[{"type": "function", "function": {"name": "no spaces"}}]),
    chat("tool's schema", "tools[0].function.parameters",
         tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}]),
    chat("many tools", "tools", tools=[FUNCTION] * 129),
    chat("tool_choice without tools", "tool_choice", tool_choice="required"),
    chat("tool_choice of nothing", "tool_choice", tools=[FUNCTION], tool_choice="sometimes"),
    chat("tool_choice without a function", "tool_choice.function", tools=[FUNCTION],
         tool_choice={"type": "function"}),
    chat("tool_choice of an unknown function", "tool_choice", tools=[FUNCTION],
         tool_choice={"type": "function", "function": {"name": "g"}}),
    chat("reasoning_effort", "reasoning_effort", reasoning_effort="extreme"),
    Case("no prompt", COMPLETIONS, {"model": "chat"}, "prompt"),
    completion("prompt is a number", "prompt", prompt=5),
    completion("prompt is an object", "prompt", prompt={"a": 1}),
    completion("no prompts", "prompt", prompt=[]),
    completion("no token ids", "prompt[0]", prompt=[[]]),
    completion("mixed prompts", "prompt[1]", prompt=["Hi", 5]),
    completion("mixed token ids", "prompt[1]", prompt=[5, "Hi"]),
    completion("negative token id", "prompt[0]", prompt=[-1]),
    completion("token id over the vocabulary", "prompt", prompt=[2**31 - 1]),
    completion("many prompts", "prompt", prompt=["Hi"] * 9),
    completion("many choices over prompts", "n", prompt=["Hi"] * 4, n=3),
    completion("suffix", "suffix", code=UNSUPPORTED, suffix="end"),
    completion("best_of", "best_of", code=UNSUPPORTED, best_of=2),
    completion("many logprobs", "logprobs", logprobs=21),
    completion("prompt over the context", "prompt", code="context_length_exceeded",
               prompt="word " * 1000),
    embedding("empty input", "input", input=""),
    embedding("no inputs", "input", input=[]),
    embedding("empty text among others", "input", input=["Hi", ""]),
    embedding("input is a number", "input", input=5),
    embedding("input is null", "input", input=None),
    embedding("many inputs", "input", input=["Hi"] * 2049),
    embedding("no dimensions", "dimensions", dimensions=0),
    embedding("too many dimensions", "dimensions", dimensions=9),
    embedding("unknown encoding", "encoding_format", encoding_format="int8"),
    embedding("chat model", "model", model="chat"),
    chat("embedding model", "model", model="embed"),
    Case("nothing to tokenize", "/tokenize", {"model": "chat"}, None),
    Case("too much to tokenize", "/tokenize",
         {"model": "chat", "prompt": "Hi", "messages": [USER]}, None),
    Case("image to tokenize", "/tokenize",
         {"model": "chat", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content", UNSUPPORTED),
    Case("text to detokenize", "/detokenize", {"model": "chat", "tokens": ["a"]}, "tokens[0]"),
    Case("unknown token to detokenize", "/detokenize",
         {"model": "chat", "tokens": [2**31 - 1]}, "tokens"),
    Case("tokenize with an embedding model", "/tokenize",
         {"model": "embed", "prompt": "Hi"}, "model"),
]  # fmt: skip

INTERNALS = ("Message", "Tool", "Format", "pydantic", "Input should", "orjson", "Traceback", "/")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
async def test_body_that_is_not_taken_is_refused_with_its_field(
    backend: Backend, case: Case
) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("max_tokens"), bytes):
        body = with_field(b"max_tokens", body["max_tokens"])
    answer = await backend.post(case.path, body)
    error = answer.json()["error"]
    assert (400, "invalid_request_error", case.code, case.param) == (
        answer.status_code, error["type"], error["code"], error["param"],
    ), error  # fmt: skip
    assert error.keys() == {"message", "type", "param", "code"}
    assert not any(word in error["message"].replace("GET /v1/models", "") for word in INTERNALS)


ACCEPTED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a\x00b"}]},
    {"messages": [{"role": "developer", "content": "Hi"}, USER]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    {"messages": [USER] * 30},
    {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto"},
    {"parallel_tool_calls": False},
    {"unknown": {"deep": [1, None]}, "extra_body": 5},
    {"x": [[[[]]]]},
    {"n": None, "stop": None, "stream": None, "tools": None, "logit_bias": None, "seed": None},
    {"stream_options": None, "response_format": None, "tool_choice": None},
    {"logit_bias": {str(i): 1 for i in range(1024)}},
    {"temperature": 0, "top_p": 1, "seed": -1, "stop": ["x"] * 16, "n": 8},
    {"logprobs": True, "top_logprobs": 20},
    {"tools": [], "tool_choice": "auto"},
    {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"response_format": schema({"$ref": "#/$defs/a", "$defs": {"a": {"const": None}}})},
    {"response_format": schema({"properties": {"$ref": {"type": "string"}}}, strict=True)},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "Hi"},
        ]
    },
]  # fmt: skip


@pytest.mark.parametrize("fields", ACCEPTED, ids="_".join)
async def test_body_that_openai_takes_is_accepted(backend: Backend, fields: dict[str, Any]) -> None:
    assert (await backend.chat(max_tokens=1, **fields)).status_code == 200


async def test_body_nested_to_the_limit_is_accepted_and_one_deeper_is_not(make: Make) -> None:
    backend = make(limits={"max_depth": 10})
    bodies = [with_field(b"x", b"[" * deep + b"]" * deep) for deep in (9, 10)]
    answers = [await backend.post(CHAT, body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 400]


async def test_body_over_the_limit_is_refused_by_its_announced_length(make: Make) -> None:
    backend = make(server={"max_body_bytes": 1024})
    answer = await backend.post(CHAT, b" " * 1025)
    assert_too_large(answer.status_code, answer.content)


async def test_body_of_exactly_the_limit_is_read(make: Make) -> None:
    backend = make(server={"max_body_bytes": 1024})
    assert (await backend.post(CHAT, with_field(b"x", b"1").ljust(1024))).status_code == 200


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
async def test_absurd_announced_length_is_refused(backend: Backend, length: str) -> None:
    answer = await backend.post(CHAT, b"{}", **{"content-length": length})
    assert_too_large(answer.status_code, answer.content)


async def test_body_over_the_limit_is_refused_while_it_is_sent_in_pieces(make: Make) -> None:
    backend = make(server={"max_body_bytes": 1024})

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1025):
            yield b" "

    answer = await backend.client.post(CHAT, content=pieces())
    assert_too_large(answer.status_code, answer.content)


def assert_too_large(status: int, body: bytes) -> None:
    error = orjson.loads(body)["error"]
    told = (status, error["type"], error["code"], error["param"])
    assert told == (413, "invalid_request_error", "request_too_large", None)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_body_sent_a_byte_at_a_time_is_ended_by_the_deadline(make: Make, http: Any) -> None:
    backend = make(server={"body_timeout_s": 0.15})
    async with listening(backend.app, http=http) as port, Connection.open(port) as client:
        await client.send(head(CHAT, key=FIXED_KEY, fields={"Content-Length": "1000"}))
        dripping = asyncio.create_task(drip(client))
        answer = await client.until(b"}}")
        await client.rest()
        dripping.cancel()
    error = orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_timeout")


async def drip(client: Connection) -> None:
    with suppress(ConnectionResetError):
        while True:
            await client.send(b" ")
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_connection_is_closed_after_a_body_that_was_not_read(make: Make, http: Any) -> None:
    backend = make(server={"max_body_bytes": 1024})
    async with listening(backend.app, http=http) as port, Connection.open(port) as client:
        await client.send(head(CHAT, key=FIXED_KEY, fields={"Content-Length": "100000"}))
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


async def test_malformed_http_is_refused_and_the_server_goes_on(backend: Backend) -> None:
    async with listening(backend.app) as port:
        for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\nx\r\n\r\n"):
            async with Connection.open(port) as client:
                await client.send(garbage)
                assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        async with Connection.open(port) as client:
            await client.post(CHAT, {"model": "chat", "messages": [USER]}, key=FIXED_KEY)
            assert (await client.until(b"}}")).startswith(b"HTTP/1.1 200 ")


async def test_client_that_leaves_while_it_sends_starts_no_generation(make: Make) -> None:
    engine = ScriptedEngine(*WHOLE)
    backend = make(engine)
    async with listening(backend.app) as port:
        async with Connection.open(port) as client:
            await client.send(head(CHAT, key=FIXED_KEY, fields={"Content-Length": "100"}) + b"{")
        await asyncio.sleep(0.05)
        async with Connection.open(port) as client:
            await client.post(CHAT, {"model": "chat", "messages": [USER]}, key=FIXED_KEY)
            await client.until(b"}}")
    assert len(engine.requests) == 1


MANY = 200_000
MANY_OBJECTS = 40_000


@pytest.mark.parametrize(
    "field",
    [
        b'"prompt":[%b]' % b",".join([b"true"] * MANY),
        b'"prompt":[%b,""]' % b",".join([b"1"] * MANY),
        b'"prompt":"","stop":[%b]' % b",".join([b"1"] * MANY),
    ],
    ids=["ids", "last_id", "stop"],
)
def test_body_of_many_wrong_items_is_refused_at_the_first(field: bytes) -> None:
    body = b'{"model":"m",%b}' % field
    with pytest.raises(InvalidRequest):
        parse(body, CompletionRequest, max_depth=64)
    assert errors_in(body, CompletionRequest) <= 2  # One for each type that a field may have.


def test_message_list_of_many_wrong_items_is_refused_at_the_first() -> None:
    body = b'{"model":"m","messages":[%b]}' % b",".join([b"{}"] * MANY_OBJECTS)
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.role"):
        parse(body, ChatRequest, max_depth=64)
    assert errors_in(body, ChatRequest) == 1


def errors_in(body: bytes, kind: type[BaseModel]) -> int:
    """How many errors pydantic collects before it gives up: each is time and memory."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(orjson.loads(body))
    return caught.value.error_count()


@given(st.recursive(
    st.text() | st.sampled_from(["[{", '"', "\\", '\\"[', "]}"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
))  # fmt: skip
@settings(deadline=None)
def test_containers_are_counted_outside_of_texts(value: Any) -> None:
    def containers(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 0 if isinstance(value, str) else 1 + sum(map(containers, inner))

    many = [value, "[" * MAX_CONTAINERS]
    assert body._containers(orjson.dumps(many)) == containers(many)


def test_text_of_a_request_may_have_any_number_of_brackets() -> None:
    said = orjson.dumps({"model": "m", "messages": [USER | {"content": '{"a": [1]}' * 50_000}]})
    assert parse(said, ChatRequest, max_depth=64).messages


def test_text_that_never_ends_is_read_once() -> None:
    with pytest.raises(InvalidRequest):
        parse(b'["' + b'[\\"' * 1_000_000, ChatRequest, max_depth=64)


def test_schemas_of_a_request_share_one_limit() -> None:
    half = {"enum": ["x" * 500]}
    check_schemas({"a": half}, max_bytes=1000)
    with pytest.raises(InvalidRequest) as caught:
        check_schemas({"a": half, "b": half}, max_bytes=1000)
    assert caught.value.param == "b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "input", "tokens", "type"})
)
PATHS = st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS, "/tokenize", "/detokenize"])
VALID: dict[str, Any] = {"messages": [USER], "prompt": "Hi", "input": "Hi", "max_tokens": 2}


@given(path=PATHS, model=st.sampled_from(["chat", "embed"]), spoilt=st.dictionaries(FIELDS, JSON))
@example(path=CHAT, model="chat", spoilt={"tool_choice": {"type": "function"}})
@example(path=CHAT, model="chat", spoilt={"messages": [{"role": "user", "content": {}}]})
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_arbitrary_body_is_answered_or_refused_in_our_envelope(
    backend: Backend, path: str, model: str, spoilt: dict[str, Any]
) -> None:
    await assert_answered_or_refused(
        backend, path, json.dumps({"model": model} | VALID | spoilt).encode()
    )


@given(path=PATHS, body=JSON | st.binary(max_size=60))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_arbitrary_bytes_are_refused_in_our_envelope(
    backend: Backend, path: str, body: Any
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    await assert_answered_or_refused(backend, path, sent)


async def assert_answered_or_refused(backend: Backend, path: str, body: bytes) -> None:
    answer = await backend.post(path, body)
    assert answer.status_code < 500
    if answer.status_code == 200:
        return
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
