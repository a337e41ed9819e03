"""Common to all requests: an id, a time, our errors, and no text of a prompt elsewhere."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message, Scope

from models.engine import EngineFailed, EngineOverloaded, EngineUnavailable, RequestRejected
from serving.gateway.boundary import Boundary
from serving.gateway.open_requests import OpenRequests
from serving.storage.errors import DatabaseUnavailable
from tests.serving.conftest import FIXED_KEY, Backend, Keys, Make
from tests.serving.fakes import HELLO, ROLE, WHOLE, FakeEmbedder, ScriptedEngine

MADE = re.compile(r"req_[0-9a-f]{32}")
CANARY = "zebra-quartz-7731"
POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/metrics"])
async def test_request_id_is_made_for_every_path(backend: Backend, path: str) -> None:
    first, second = [(await backend.client.get(path)).headers["x-request-id"] for _ in range(2)]
    assert MADE.fullmatch(first)
    assert first != second


@pytest.mark.parametrize("given_id", ["abc", "a" * 128, "Trace_1.2-3"])
async def test_request_id_of_the_client_is_kept(backend: Backend, given_id: str) -> None:
    answer = await backend.client.get("/health", headers={"X-Request-ID": given_id})
    assert answer.headers.get_list("x-request-id") == [given_id]


@pytest.mark.parametrize(
    "given_id", [b"", b"a" * 129, b"a b", b"a\tb", b"\xc3\xa9", b"a,b", b"<a>"]
)
async def test_request_id_that_is_malformed_is_replaced(backend: Backend, given_id: bytes) -> None:
    answer = await backend.client.get("/health", headers={b"x-request-id": given_id})
    assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_request_id_is_in_the_log_line_of_the_request(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ringfence")
    body = {"model": "chat", "prompt": "Hi", "max_tokens": 1}
    await backend.post("/v1/completions", body, **{"x-request-id": "mine"})
    [record] = [r for r in caplog.records if r.name == "ringfence.requests"]
    assert orjson.loads(record.getMessage())["request_id"] == "mine"


@pytest.mark.parametrize("stream", [False, True])
async def test_processing_time_is_told_in_whole_milliseconds(make: Make, *, stream: bool) -> None:
    backend = make(ScriptedEngine(0.05, *WHOLE))
    told_ms, took_ms = await processing_ms(backend.chat(stream=stream))
    assert 49 <= told_ms <= took_ms


async def test_processing_time_is_told_with_errors_too(make: Make) -> None:
    backend = make(ScriptedEngine(0.05, EngineFailed("Broke.")))
    told_ms, took_ms = await processing_ms(backend.chat())
    assert 49 <= told_ms <= took_ms


async def processing_ms(asking: Awaitable[httpx.Response]) -> tuple[int, float]:
    """What the gateway says that an answer took, and what it took as the client sees it."""
    began = time.perf_counter()
    answer = await asking
    took_ms = (time.perf_counter() - began) * 1000
    return int(answer.headers["openai-processing-ms"]), took_ms


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that does not depend on the body."""

    status: int
    type: str
    code: str


MISSING = Refusal(401, "authentication_error", "missing_api_key")
INVALID = Refusal(401, "authentication_error", "invalid_api_key")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        ("", MISSING),
        ("Bearer", MISSING),
        ("Bearer wrong", INVALID),
        ("Basic Zml4ZWQ6", INVALID),
        (f"Bearer {FIXED_KEY}x", INVALID),
        ("Bearer sk-rf-000000000000-" + "0" * 43, INVALID),
        ("Bearer " + "x" * 5000, INVALID),
    ],
    ids=["empty", "scheme", "wrong", "basic", "longer", "made_up", "long"],
)
async def test_request_without_a_good_key_is_refused_before_its_body_is_read(
    backend: Backend, path: str, authorization: str, refusal: Refusal
) -> None:
    answer = await backend.post(path, b"not even JSON", authorization=authorization)
    assert refusal == told(answer)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/chat"])
async def test_listing_without_a_key_is_refused(backend: Backend, path: str) -> None:
    del backend.client.headers["authorization"]
    assert told(await backend.client.get(path)) == MISSING


@pytest.mark.parametrize("path", POSTS)
async def test_admin_key_runs_no_models(backend: Backend, keys: Keys, path: str) -> None:
    answer = await backend.post(path, {}, authorization=f"Bearer {keys.admin}")
    assert Refusal(403, "permission_error", "not_permitted") == told(answer)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/docs",
                                  "/openapi.json", "/admin/v1/keys", "/v1/%00"])  # fmt: skip
async def test_unknown_path_is_told_in_our_envelope(
    backend: Backend, method: str, path: str
) -> None:
    answer = await backend.client.request(method, path)
    assert Refusal(404, "invalid_request_error", "unknown_url") == told(answer)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(("GET", path, "POST") for path in POSTS),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/chat", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/metrics", "GET"),
    ],
)
async def test_wrong_method_is_told_with_the_right_one(
    backend: Backend, method: str, path: str, allowed: str
) -> None:
    answer = await backend.client.request(method, path)
    assert Refusal(405, "invalid_request_error", "method_not_allowed") == told(answer)
    assert answer.headers["allow"] == allowed


async def test_bug_is_told_in_a_fixed_sentence_and_logged_by_its_id(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(ScriptedEngine(ZeroDivisionError(CANARY)))
    answer = await backend.post(
        "/v1/completions", {"model": "chat", "prompt": "Hi"}, **{"x-request-id": "mine"}
    )
    [record] = [r for r in caplog.records if r.name == "ringfence.gateway"]
    assert Refusal(500, "server_error", "internal_error") == told(answer)
    assert answer.headers["x-request-id"] == "mine"
    assert record.getMessage().startswith("request mine: ZeroDivisionError\n")
    assert answer.json()["error"]["message"] == (
        "The server failed to handle this request. It was logged by its id."
    )


async def test_bug_in_the_application_itself_is_caught_too() -> None:
    async def broken(*_: Any) -> None:
        raise ValueError(CANARY)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope: Scope = {"type": "http", "headers": [], "method": "GET", "path": "/"}
    await Boundary(broken, OpenRequests())(scope, receive, send)
    assert sent[0]["status"] == 500
    assert orjson.loads(sent[1]["body"])["error"]["code"] == "internal_error"


async def test_other_protocols_pass_through() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, *_: Any) -> None:
        seen.append(scope)

    await Boundary(app, OpenRequests())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]


def told(answer: Any) -> Refusal:
    body = answer.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] is None
    assert isinstance(error["message"], str)
    assert answer.headers["content-type"] == "application/json"
    return Refusal(answer.status_code, error["type"], error["code"])


def prompts() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests that carry the canary in every text of a client."""
    said = {"role": "user", "content": CANARY}
    chat = "/v1/chat/completions"
    tool = {"name": CANARY, "description": CANARY, "parameters": {"properties": {CANARY: {}}}}
    wrong = {"name": "f", "parameters": {"properties": {CANARY: 5}}}
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": CANARY}}
    for stream in (False, True):
        yield "plain", chat, {"messages": [said], "stream": stream}
    yield "completion", "/v1/completions", {"prompt": CANARY}
    yield "prompts", "/v1/completions", {"prompt": [CANARY, CANARY], "echo": True}
    yield "embedding", "/v1/embeddings", {"model": "embed", "input": [CANARY]}
    yield "tokenize", "/tokenize", {"prompt": CANARY}
    yield "tokenize chat", "/tokenize", {"messages": [said]}
    yield "user", chat, {"messages": [said], "user": CANARY, "metadata": {CANARY: CANARY}}
    yield "unknown field", chat, {"messages": [said], CANARY: CANARY}
    yield "tools", chat, {"messages": [said], "tools": [{"type": "function", "function": tool}]}
    yield "history", chat, {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    yield "wrong tool", chat, {"messages": [said],
                               "tools": [{"type": "function", "function": wrong}]}  # fmt: skip
    yield "wrong role", chat, {"messages": [{"role": CANARY, "content": CANARY}]}
    yield "wrong part", chat, {"messages": [{"role": "user", "content": [{"type": CANARY}]}]}
    yield "wrong content", chat, {"messages": [{"role": "user", "content": {CANARY: CANARY}}]}
    yield "wrong message", chat, {"messages": [CANARY]}
    yield "wrong messages", chat, {"messages": {CANARY: CANARY}}
    yield "wrong stop", chat, {"messages": [said], "stop": [CANARY] * 17}
    yield "wrong bias", chat, {"messages": [said], "logit_bias": {CANARY: 1}}
    yield "wrong format", chat, {"messages": [said], "response_format": {"type": CANARY}}
    yield "wrong choice", chat, {"messages": [said], "tool_choice": CANARY}
    yield "wrong number", chat, {"messages": [said], "temperature": CANARY, "max_tokens": CANARY}
    yield "wrong schema", chat, {"messages": [said], "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"properties": {CANARY: {"type": CANARY}}}},
    }}  # fmt: skip
    yield "foreign schema", chat, {"messages": [said], "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"$ref": f"http://{CANARY}"}},
    }}  # fmt: skip
    yield "image", chat, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"http://{CANARY}/"}}
    ]}]}  # fmt: skip
    yield "long", chat, {"messages": [{"role": "user", "content": f"{CANARY} " * 500}]}
    yield "wrong prompt", "/v1/completions", {"prompt": {CANARY: CANARY}}
    yield "wrong input", "/v1/embeddings", {"model": "embed", "input": {CANARY: CANARY}}
    yield "wrong tokens", "/detokenize", {"tokens": [CANARY]}


@pytest.mark.parametrize(
    ("path", "body"),
    [case[1:] for case in prompts()],
    ids=[case[0].replace(" ", "_") for case in prompts()],
)
async def test_prompt_text_is_in_no_error_log_or_metric(
    backend: Backend, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await backend.post(path, {"model": "chat"} | body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert CANARY not in answer.text
    await assert_told_nowhere(backend, caplog)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [f'{{"a": "{CANARY}'.encode(), f'"{CANARY}"'.encode(), f'["{CANARY}"]'.encode()]
)
async def test_text_of_an_unreadable_body_is_in_no_error_log_or_metric(
    backend: Backend, caplog: pytest.LogCaptureFixture, path: str, body: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await backend.post(path, body)
    assert answer.status_code == 400
    assert CANARY not in answer.text
    await assert_told_nowhere(backend, caplog)


CAUSES = [
    ValueError(CANARY), KeyError(CANARY), RuntimeError(CANARY), UnicodeError(CANARY),
    DatabaseUnavailable(CANARY), ExceptionGroup(CANARY, [ValueError(CANARY)]),
    AssertionError(CANARY), StopAsyncIteration(CANARY), TimeoutError(CANARY), OSError(CANARY),
]  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: type(cause).__name__)
@pytest.mark.parametrize("before", [(), (ROLE, HELLO)], ids=["before_the_first_delta", "after"])
@pytest.mark.parametrize("stream", [False, True], ids=["unstreamed", "streamed"])
async def test_text_of_an_unknown_exception_is_in_no_answer_log_or_metric(
    make: Make, caplog: pytest.LogCaptureFixture, *, cause: Exception,
    before: tuple[bytes, ...], stream: bool,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    backend = make(ScriptedEngine(*before, cause))
    answer = await backend.chat(stream=stream)
    assert CANARY not in answer.text
    assert b'"code":"internal_error"' in answer.content
    await assert_told_nowhere(backend, caplog)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/detokenize"])
async def test_text_of_an_unknown_exception_is_told_by_no_other_path(
    make: Make, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    error = ValueError(CANARY)
    backend = make(ScriptedEngine(error), embedder=FakeEmbedder(error))
    model = "embed" if path == "/v1/embeddings" else "chat"
    body = {"model": model, "input": "Hi", "prompt": "Hi", "tokens": [1]}
    answer = await backend.post(path, body)
    assert answer.status_code == 500
    assert CANARY not in answer.text
    await assert_told_nowhere(backend, caplog)


@pytest.mark.parametrize(
    "error",
    [RequestRejected("No."), EngineFailed("Broke."), EngineOverloaded("Busy."),
     EngineUnavailable("Gone.")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_prompt_text_of_a_request_that_the_engine_fails_at_is_told_nowhere(
    make: Make, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.DEBUG)
    backend = make(ScriptedEngine(error))
    answer = await backend.chat(messages=[{"role": "user", "content": CANARY}])
    assert CANARY not in answer.text
    await assert_told_nowhere(backend, caplog)


async def assert_told_nowhere(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    assert not [record for record in caplog.records if CANARY in caplog.handler.format(record)]
    assert CANARY not in (await backend.client.get("/metrics")).text
