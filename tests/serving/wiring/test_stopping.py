"""The stop of a gateway: every request ends, and its usage is written in time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import select

from models.openai_stream import DONE
from serving.domain.errors import ServerStopping, envelope
from serving.storage.database import Database
from serving.storage.schema import UsageAttempt
from serving.wiring.stopping import Stopping, StopReport, WrittenLedgers
from tests.serving.conftest import FIXED_KEY, SPECS, Backend, Make
from tests.serving.fakes import HELLO, ROLE, WHOLE, FakeEmbedder, ScriptedEngine
from tests.serving.live import Connection, dechunked, eventually, head, listening

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = BODY | {"stream": True}
STOPPED = b"data: " + envelope(ServerStopping()) + b"\n\n"
LONG_S = 600.0
never = asyncio.Event


@dataclass
class Stop:
    """A gateway, and its stop with a fake for closing the rest."""

    backend: Backend
    open_at_close: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stopping = Stopping(
            self.backend.requests,
            idempotency=self.backend.idempotency,
            admission=self.backend.admission_parts.admission,
            close=self._close,
        )

    async def __call__(self, drain_s: float) -> StopReport:
        async with asyncio.timeout(60):
            return await self.stopping.stop(drain_s)

    async def _close(self) -> WrittenLedgers:
        self.open_at_close.append(len(self.backend.requests))
        return WrittenLedgers([], signed=True)


Ask = Callable[[Backend], Awaitable[httpx.Response]]


async def chat(backend: Backend) -> httpx.Response:
    return await backend.chat()


async def stream(backend: Backend) -> httpx.Response:
    return await backend.chat(stream=True)


async def continuing(backend: Backend) -> httpx.Response:
    headers = {"x-ringfence-on-failure": "continue"}
    return await backend.post(CHAT, STREAM, **headers)


async def complete(backend: Backend) -> httpx.Response:
    return await backend.complete()


async def embed(backend: Backend) -> httpx.Response:
    return await backend.post("/v1/embeddings", {"model": "embed", "input": "Hi"})


ASKS = pytest.mark.parametrize("ask", [chat, stream, continuing, complete, embed])


async def asking(
    backend: Backend, ask: Ask, *, count: int = 1
) -> list[asyncio.Task[httpx.Response]]:
    """Start requests, and wait until they are open."""
    tasks = [asyncio.ensure_future(ask(backend)) for _ in range(count)]
    assert await eventually(lambda: len(backend.requests) == count)
    return tasks


@ASKS
async def test_request_that_ends_while_the_gateway_drains_gets_its_answer(
    make: Make, ask: Ask
) -> None:
    go = asyncio.Event()
    backend = make(ScriptedEngine(go, *WHOLE), embedder=FakeEmbedder(go))
    stop = Stop(backend)
    [answering] = await asking(backend, ask)
    stopping = asyncio.create_task(stop(LONG_S))
    assert await eventually(lambda: backend.requests.refusing)
    go.set()
    assert (await answering).status_code == 200
    assert (await stopping).ended == 0
    assert stop.open_at_close == [0]


@ASKS
async def test_request_without_a_delta_is_refused_when_the_time_to_drain_is_over(
    make: Make, ask: Ask
) -> None:
    backend = make(ScriptedEngine(never()), embedder=FakeEmbedder(never()))
    stop = Stop(backend)
    answering = await asking(backend, ask, count=3)
    assert (await stop(0)).ended == 3
    for answer in await asyncio.gather(*answering):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
        assert answer.headers["retry-after"] == "5"
    assert stop.open_at_close == [0]


@pytest.mark.parametrize("ask", [stream, continuing])
async def test_stream_ends_in_an_error_event_when_the_time_to_drain_is_over(
    make: Make, ask: Ask
) -> None:
    backend = make(ScriptedEngine(ROLE, HELLO, never()))
    stop = Stop(backend)
    [answering] = await asking(backend, ask)
    await stop(0)
    answer = await answering
    assert answer.content.endswith(STOPPED)
    assert DONE not in answer.content


async def test_stream_that_is_ended_is_a_whole_body_on_the_wire(make: Make) -> None:
    backend = make(ScriptedEngine(ROLE, never()))
    async with listening(backend.app) as port, Connection.open(port) as client:
        await client.post(CHAT, STREAM, key=FIXED_KEY)
        await client.until(ROLE)
        await Stop(backend)(0)
        answer = await client.until(b"\r\n0\r\n\r\n")
    assert dechunked(answer) == ROLE + STOPPED


async def test_request_that_waits_for_its_turn_is_refused(make: Make) -> None:
    one_place = SPECS[0].model_copy(update={"max_ongoing_requests": 1})
    backend = make(
        ScriptedEngine(never()), specs=(one_place,), admission={"max_queue_wait_s": LONG_S}
    )
    answering = await asking(backend, chat, count=2)
    assert await eventually(lambda: backend.admission_parts.admission.queues["chat"].waiting == 1)
    assert (await Stop(backend)(0)).ended == 2
    assert {answer.status_code for answer in await asyncio.gather(*answering)} == {503}


async def test_body_that_does_not_arrive_is_refused(make: Make) -> None:
    backend = make(server={"body_timeout_s": LONG_S})
    async with listening(backend.app) as port, Connection.open(port) as client:
        await client.send(head(CHAT, key=FIXED_KEY, fields={"Content-Length": "100"}) + b"{")
        assert await eventually(lambda: len(backend.requests) == 1)
        await Stop(backend)(0)
        answer = await client.until(b"server_stopping")
    assert answer.startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("streamed", [True, False])
async def test_work_under_an_idempotency_key_may_be_repeated(make: Make, *, streamed: bool) -> None:
    engine, key = ScriptedEngine(ROLE, never()), secrets.token_hex(6)
    backend = make(engine)

    async def repeatable(backend: Backend) -> httpx.Response:
        return await backend.post(CHAT, BODY | {"stream": streamed}, **{"idempotency-key": key})

    [answering] = await asking(backend, repeatable)
    await engine.started.wait()
    assert (await Stop(backend)(0)).ended == 1
    assert b"Repeat the request with the same key." in (await answering).content
    other = make(ScriptedEngine(*WHOLE))
    again = await repeatable(other)
    assert again.status_code == 200


async def test_work_without_a_client_is_waited_for(make: Make) -> None:
    go = asyncio.Event()
    engine = ScriptedEngine(ROLE, go, *WHOLE[1:])
    backend = make(engine)
    raw = orjson.dumps(STREAM)
    fields = {"Content-Length": str(len(raw)), "Idempotency-Key": secrets.token_hex(6)}
    async with listening(backend.app) as port:
        async with Connection.open(port) as client:
            await client.send(head(CHAT, key=FIXED_KEY, fields=fields) + raw)
            await client.until(ROLE)
            client.hang_up(abruptly=True)
        stop = Stop(backend)
        stopping = asyncio.create_task(stop(LONG_S))
        assert await eventually(lambda: backend.requests.refusing)
        assert not stopping.done()
        go.set()
        assert (await stopping).ended == 0
    assert engine.open == 0


async def test_new_requests_are_refused_while_probes_are_answered(make: Make) -> None:
    backend = make(ScriptedEngine(never()))
    stop = Stop(backend)
    [answering] = await asking(backend, chat)
    stopping = asyncio.create_task(stop(LONG_S))
    assert await eventually(lambda: backend.requests.refusing)
    for answer in (await backend.chat(), await backend.client.get("/v1/models")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
    ready = await backend.client.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
    for path in ("/health", "/metrics"):
        assert (await backend.client.get(path)).status_code == 200
    await stop(0)
    await asyncio.gather(stopping, answering)


async def test_second_call_shortens_the_drain_of_the_one_stop(make: Make) -> None:
    backend = make(ScriptedEngine(never()))
    stop = Stop(backend)
    [answering] = await asking(backend, chat)
    first = asyncio.create_task(stop(LONG_S))
    await asyncio.sleep(0)
    assert await stop(0) == await first
    assert (await answering).status_code == 503
    assert stop.open_at_close == [0]


async def test_replica_that_ray_drains_takes_requests_until_its_time_is_over(make: Make) -> None:
    backend = make(ScriptedEngine(never()))
    stop = Stop(backend)
    [answering] = await asking(backend, chat)
    stop.stopping.stop_later(LONG_S)
    assert (await backend.client.get("/v1/models")).status_code == 200
    stop.stopping.stop_later(0)
    assert (await answering).status_code == 503
    assert (await stop(LONG_S)).ended == 1
    assert stop.open_at_close == [0]


async def test_stop_goes_on_when_the_one_who_asked_for_it_is_gone(make: Make) -> None:
    stop = Stop(make())
    asked = asyncio.create_task(stop(LONG_S))
    await asyncio.sleep(0)
    asked.cancel()
    assert (await stop(LONG_S)).ended == 0
    assert stop.open_at_close == [0]


async def test_client_that_does_not_read_does_not_hold_the_stop_up(make: Make) -> None:
    backend = make(ScriptedEngine(ROLE, HELLO * 100_000, HELLO * 100_000, never()))
    async with listening(backend.app) as port, Connection.open(port) as client:
        await client.post(CHAT, STREAM, key=FIXED_KEY)
        await client.until(ROLE)
        stop = Stop(backend)
        await stop(0)
    assert len(stop.open_at_close) == 1


@pytest.mark.parametrize("script", [(never(),), (ROLE, HELLO, never())], ids=["queued", "begun"])
async def test_ended_request_is_in_the_ledger_as_its_client_was_told(
    make: Make, database: Database, script: tuple[Any, ...]
) -> None:
    backend = make(ScriptedEngine(*script))
    [answering] = await asking(backend, stream)
    await Stop(backend)(0)
    request_id = (await answering).headers["x-request-id"]
    await backend.admission_parts.ledger.drain()
    async with database.session() as session:
        query = select(UsageAttempt).where(UsageAttempt.request_id == request_id)
        [row] = (await session.scalars(query)).all()
    assert row.outcome == "server_stopping"
    assert (row.completion_tokens > 0) == (len(script) > 1)
