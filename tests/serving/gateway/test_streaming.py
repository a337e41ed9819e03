"""Streams and answers on the wire: framing, silence, failures, and clients that disconnect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalog import Simulation
from models.embedding.embedder import Embedder
from models.engine import Engine, EngineError, EngineFailed, EngineTimeout
from models.openai_stream import DONE
from models.simulated.engine import SimulatedEngine
from serving.answering.routing import GeneratedAnswer
from serving.domain.errors import Unexpected, envelope
from serving.domain.quota import Quota
from serving.domain.route import Origin
from serving.gateway.streaming import KEEP_ALIVE, Deferred, collected, streamed
from tests.serving.conftest import FIXED_KEY, SPECS, Backend, Make
from tests.serving.fakes import (
    HELLO,
    ROLE,
    STOP,
    USAGE,
    WHOLE,
    FakeEmbedder,
    ScriptedEngine,
    chat_frame,
)
from tests.serving.live import Connection, dechunked, eventually, listening
from tests.serving.virtual_time import now, run

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
RUNNING = 'ringfence_running_requests{model="chat"}'
FOREVER: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}
SLOWLY = {"step_base_ms": 100.0}
"""Steps of an answer that lasts longer than any test waits for something."""

Http = Literal["h11", "httptools"]
BOTH_SERVERS = pytest.mark.parametrize("http", ["h11", "httptools"])
HANG_UPS = pytest.mark.parametrize("abruptly", [True, False], ids=["reset", "closed"])


def simulated(**simulation: float) -> SimulatedEngine:
    timing = Simulation.model_validate(simulation)
    return SimulatedEngine(SPECS[0].model_copy(update={"simulation": timing}))


@asynccontextmanager
async def asked(
    make: Make, engine: Engine | None, body: dict[str, Any], *, http: Http = "httptools",
    path: str = CHAT, embedder: Embedder | None = None, **server: float,
) -> AsyncIterator[tuple[Backend, Connection]]:  # fmt: skip
    """A live gateway that received one request, and the connection that sent it."""
    backend = make(engine, embedder=embedder, server=server)
    async with listening(backend.app, http=http) as port, Connection.open(port) as client:
        await client.post(path, body, key=FIXED_KEY)
        yield backend, client


@BOTH_SERVERS
async def test_stream_on_the_wire_is_the_engine_s_frames_and_done(make: Make, http: Http) -> None:
    engine = ScriptedEngine(*WHOLE)
    async with asked(make, engine, BODY | {"stream": True}, http=http) as (_, client):
        answer = await client.until(b"\r\n0\r\n\r\n")
    frames = [step for step in WHOLE if isinstance(step, bytes)]
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert dechunked(answer) == b"".join(frames) + DONE


@BOTH_SERVERS
async def test_stream_that_fails_ends_the_response_with_the_error_and_without_done(
    make: Make, http: Http
) -> None:
    engine = ScriptedEngine(ROLE, HELLO, EngineFailed("Broke."))
    async with asked(make, engine, BODY | {"stream": True}, http=http) as (_, client):
        answer = await client.until(b"\r\n0\r\n\r\n")
    error = envelope(EngineFailed("Broke."))
    assert dechunked(answer) == ROLE + HELLO + b"data: " + error + b"\n\n"


@pytest.mark.parametrize("failure", [EngineFailed("Broke."), EngineTimeout("Late.")])
async def test_tool_call_that_breaks_off_is_never_told_as_complete(
    make: Make, failure: EngineError
) -> None:
    function = {"name": "write", "arguments": '{"path": "/e'}
    call = {"index": 0, "id": "c", "type": "function", "function": function}
    script = (ROLE, chat_frame({"tool_calls": [call]}), failure)
    async with asked(make, ScriptedEngine(*script), BODY | {"stream": True}) as (_, client):
        stream = dechunked(await client.until(b"\r\n0\r\n\r\n"))
    assert b'"finish_reason":null' in stream
    assert b'"finish_reason":"' not in stream
    assert stream.endswith(b"data: " + envelope(failure) + b"\n\n")
    async with asked(make, ScriptedEngine(*script), BODY) as (_, client):
        assert not (await client.until(b"}}")).startswith(b"HTTP/1.1 200")


@BOTH_SERVERS
async def test_stream_that_meets_a_bug_ends_the_response_with_a_fixed_sentence(
    make: Make, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = ScriptedEngine(ROLE, HELLO, KeyError("canary"))
    async with asked(make, engine, BODY | {"stream": True}, http=http) as (_, client):
        answer = await client.until(b"\r\n0\r\n\r\n")
    assert dechunked(answer) == ROLE + HELLO + b"data: " + envelope(Unexpected()) + b"\n\n"
    assert "canary" not in caplog.text
    assert "KeyError" in caplog.text


async def test_status_is_not_sent_before_the_first_delta(make: Make) -> None:
    go = asyncio.Event()
    engine = ScriptedEngine(go, *WHOLE)
    async with asked(make, engine, BODY | {"stream": True}, keep_alive_s=0.02) as (_, client):
        with pytest.raises(TimeoutError):  # Whatever is sent too early comes well within that.
            await asyncio.wait_for(client.until(b"HTTP"), 0.1)
        go.set()
        assert (await client.until(DONE)).startswith(b"HTTP/1.1 200 ")


async def test_comments_go_out_on_the_wire_between_deltas(make: Make) -> None:
    go = asyncio.Event()
    engine = ScriptedEngine(ROLE, go, HELLO, STOP, USAGE)
    async with asked(make, engine, BODY | {"stream": True}, keep_alive_s=0.05) as (_, client):
        await client.until(ROLE)
        await client.until(KEEP_ALIVE, times=3)
        go.set()
        answer = dechunked(await client.until(b"\r\n0\r\n\r\n"))
    assert answer.replace(KEEP_ALIVE, b"") == ROLE + HELLO + STOP + DONE


async def test_comment_is_not_sent_into_an_unstreamed_answer(make: Make) -> None:
    engine = ScriptedEngine(ROLE, 0.1, HELLO, *WHOLE[2:])
    async with asked(make, engine, BODY, keep_alive_s=0.02) as (_, client):
        answer = await client.until(b"}}")
    assert KEEP_ALIVE not in answer


async def test_client_that_stops_reading_loses_its_stream_and_frees_the_engine(make: Make) -> None:
    engine = ScriptedEngine(ROLE, *[b"data: " + b"x" * 2**20 + b"\n\n"] * 64)
    async with asked(make, engine, BODY | {"stream": True}, keep_alive_s=0.1) as (_, client):
        await client.until(ROLE)
        assert await eventually(lambda: engine.open == 0)


async def test_second_request_on_a_connection_is_answered(make: Make) -> None:
    async with asked(make, ScriptedEngine(*WHOLE), BODY | {"stream": True}) as (_, client):
        await client.until(b"\r\n0\r\n\r\n")
        client.received = b""
        await client.post(CHAT, BODY, key=FIXED_KEY)
        assert (await client.until(b"}}")).startswith(b"HTTP/1.1 200 ")


@BOTH_SERVERS
@HANG_UPS
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize("before", [(), (ROLE, HELLO)], ids=["before_the_first_delta", "after"])
async def test_hang_up_closes_the_engine_s_generator(
    make: Make, *, http: Http, abruptly: bool, stream: bool, before: tuple[bytes, ...]
) -> None:
    engine = ScriptedEngine(*before, asyncio.Event())
    async with asked(make, engine, BODY | {"stream": stream}, http=http) as (backend, client):
        await engine.started.wait()
        if stream and before:
            await client.until(HELLO)
        client.hang_up(abruptly=abruptly)
        assert await eventually(lambda: engine.open == 0)
        outcome = 'ringfence_requests_total{endpoint="chat",model="chat",outcome="cancelled"}'
        assert await backend.comes_to(1, outcome)
        assert await backend.comes_to(0, RUNNING)


async def test_hang_up_in_the_queue_frees_the_place(make: Make) -> None:
    engine = simulated(**SLOWLY, max_batch=1)
    backend = make(engine)
    async with listening(backend.app) as port, Connection.open(port) as first:
        await first.post(CHAT, BODY | FOREVER | {"stream": True}, key=FIXED_KEY)
        await first.until(b"assistant")
        async with Connection.open(port) as second:
            await second.post(CHAT, BODY | FOREVER | {"stream": True}, key=FIXED_KEY)
            assert await eventually(lambda: engine.waiting == 1)
            second.hang_up(abruptly=True)
            assert await eventually(lambda: (engine.running, engine.waiting) == (1, 0))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize(
    "simulation",
    [{"prefill_ms_per_token": 1e6}, SLOWLY],
    ids=["prefill", "decode"],
)
async def test_hang_up_frees_the_slot(
    make: Make, *, stream: bool, simulation: dict[str, float]
) -> None:
    engine = simulated(**simulation)
    body = BODY | FOREVER | {"stream": stream, "n": 2}
    async with asked(make, engine, body) as (_, client):
        assert await eventually(lambda: engine.running == 2)
        client.hang_up(abruptly=False)
        assert await eventually(lambda: (engine.running, engine.waiting) == (0, 0))


@HANG_UPS
async def test_hang_up_cancels_an_embedding(make: Make, *, abruptly: bool) -> None:
    embedder = FakeEmbedder(asyncio.Event())
    body = {"model": "embed", "input": "Hi"}
    async with asked(make, None, body, path="/v1/embeddings", embedder=embedder) as (_, client):
        await embedder.started.wait()
        client.hang_up(abruptly=abruptly)
        assert await eventually(lambda: embedder.open == 0)


async def test_hang_up_of_one_client_leaves_the_other_s_stream_alone(make: Make) -> None:
    go = asyncio.Event()
    engine = ScriptedEngine(ROLE, go, HELLO, STOP, USAGE)
    backend = make(engine)
    async with listening(backend.app) as port, Connection.open(port) as stays:
        async with Connection.open(port) as leaves:
            for client in (stays, leaves):
                await client.post(CHAT, BODY | {"stream": True}, key=FIXED_KEY)
                await client.until(ROLE)
        assert await eventually(lambda: engine.open == 1)
        go.set()
        assert dechunked(await stays.until(b"\r\n0\r\n\r\n")) == ROLE + HELLO + STOP + DONE


async def test_many_hang_ups_leave_nothing_running(make: Make) -> None:
    engine = simulated(**SLOWLY)
    backend = make(engine)
    async with listening(backend.app) as port:
        for wait_s in (0.0, 0.001, 0.005, 0.02, 0.12) * 4:
            async with Connection.open(port) as client:
                await client.post(CHAT, BODY | FOREVER | {"stream": True}, key=FIXED_KEY)
                await asyncio.sleep(wait_s)
                client.hang_up(abruptly=True)
        assert await eventually(lambda: (engine.running, engine.waiting) == (0, 0))
        assert await backend.comes_to(0, RUNNING)


async def test_cancellation_from_outside_is_not_taken_for_a_hang_up() -> None:
    async def produce(_: Callable[..., Any]) -> None:
        await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(_: Any) -> None: ...

    task = asyncio.create_task(Deferred(produce)({}, receive, send))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_that_meets_a_hang_up_still_ends_the_task() -> None:
    gone = asyncio.Event()

    async def produce(_: Callable[..., Any]) -> None:
        await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        asyncio.get_running_loop().call_soon(task.cancel)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None: ...

    task = asyncio.create_task(Deferred(produce)({}, receive, send))
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(asyncio.CancelledError):
        await task


class Scope:
    """A generation that yields the given deltas, and waits for seconds between them."""

    def __init__(self, steps: Sequence[bytes | float]) -> None:
        self._steps = steps

    async def __aenter__(self) -> Any:
        async def generate() -> AsyncGenerator[bytes, None]:
            for step in self._steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step

        return GeneratedAnswer(generate(), Quota(), lambda: Origin("local_only"))

    async def __aexit__(self, *_: object) -> None: ...


async def sent(response: Deferred) -> list[tuple[float, bytes]]:
    """When which bytes of the body were sent."""
    told: list[tuple[float, bytes]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        if body := message.get("body"):
            told.append((round(now(), 6), body))

    await response({}, receive, send)
    return told


async def bodies(response: Deferred) -> bytes:
    return b"".join(body for _, body in await sent(response))


def test_comment_is_sent_after_each_stretch_of_silence_and_not_while_deltas_come() -> None:
    scope = Scope([ROLE, 2.9, HELLO, 2.9, HELLO, 7.0, HELLO, 1.0])
    assert run(sent(streamed(scope, keep_alive_s=3.0))) == [
        (0.0, ROLE), (2.9, HELLO), (5.8, HELLO), (8.8, KEEP_ALIVE), (11.8, KEEP_ALIVE),
        (12.8, HELLO), (13.8, DONE),
    ]  # fmt: skip


@given(st.lists(st.lists(st.text(), min_size=1, max_size=3), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
async def test_framing_carries_any_text_in_any_grouping(groups: list[list[str]]) -> None:
    def frame(text: str) -> bytes:
        chunk = orjson.loads(HELLO[6:])
        chunk["choices"][0]["delta"]["content"] = text
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    deltas = [b"".join(map(frame, group)) for group in groups]
    raw = await bodies(streamed(Scope(deltas), keep_alive_s=60))
    whole = orjson.loads(await bodies(collected(Scope(deltas))))
    lines = raw.split(b"\n\n")
    said = [orjson.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines[:-2]]
    assert lines[-2:] == [b"data: [DONE]", b""]
    assert said == [text for group in groups for text in group]
    assert whole["choices"][0]["message"]["content"] == "".join(said)
