from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope, Send

from models.engine import EngineError, EngineFailed, EngineOverloaded, ReaderTooSlow
from models.openai_stream import DONE
from serving.access.authenticator import FIXED_PRINCIPAL
from serving.domain.errors import InvalidRequest, RingfenceError, envelope
from serving.gateway.boundary import Boundary
from serving.gateway.idempotency import MAX_UNREAD_BYTES, Idempotency, _Inbox
from serving.gateway.open_requests import OpenRequests
from serving.gateway.streaming import Deferred, error_response, send_json
from serving.idempotency.store import IdempotencyStore
from serving.storage.valkey import Valkey
from tests.serving.fakes import ScriptedEngine, Step
from tests.serving.live import Connection, dechunked, eventually, head, listening
from tests.serving.valkeys import (
    embedded_valkey_url,
    redis_url,
    valkey,
    valkey_prefix,
    valkey_url,
)

__all__ = ["embedded_valkey_url", "redis_url", "valkey", "valkey_prefix", "valkey_url"]

SECRET = SecretStr("server-secret-of-the-tests-0123456789")
HEADERS = [(b"x-ratelimit-remaining-requests", b"7"), (b"x-note", "caf\xe9".encode("latin-1"))]
OF_EACH = {"x-request-id", "openai-processing-ms", "date"}
START = b": start\n\n"
MORE = b"data: more\n\n"
MODES = pytest.mark.parametrize("stream", [False, True])


class Work:
    """Counts its runs, and answers each with its number and a script, as events or as JSON."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.runs = self.open = 0
        self.error: Exception | None = None
        self.size = 10

    async def __call__(self, *, stream: bool) -> Response:
        self.runs += 1
        if self.error is not None:
            raise self.error
        run = self.runs

        async def produce(send: Send) -> None:
            self.open += 1
            try:
                await (self._stream(run, send) if stream else self._collect(run, send))
            finally:
                self.open -= 1

        return Deferred(produce)

    async def _stream(self, run: int, send: Send) -> None:
        last = DONE
        try:
            async for delta in self._deltas(run):
                if delta == START:
                    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *HEADERS]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": delta, "more_body": True})
        except EngineFailed as error:
            last = b"data: " + envelope(error) + b"\n\n"
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _collect(self, run: int, send: Send) -> None:
        text = b"".join([delta async for delta in self._deltas(run)])
        await send_json(send, {"text": text.decode()}, headers=HEADERS)

    async def _deltas(self, run: int) -> AsyncGenerator[bytes, None]:
        yield START
        yield b"data: run %d: %s\n\n" % (run, b"x" * self.size)
        async for item in ScriptedEngine(*self.script).generate(None):  # type: ignore[arg-type]
            assert isinstance(item, bytes)
            yield item


class Replica:
    """A gateway with routes that do work under idempotency keys."""

    def __init__(self, store: IdempotencyStore, work: Work, **settings: Any) -> None:
        requests = OpenRequests()
        self.idempotency = Idempotency(store, requests=requests, **settings)
        self._work = work
        routes = [Route(path, self._answer, methods=["POST"]) for path in ("/one", "/two")]
        handlers: Any = {RingfenceError: _told, EngineError: _told}
        app = Starlette(routes=routes, exception_handlers=handlers)
        self.app: ASGIApp = Boundary(app, requests)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://ringfence"
        )

    async def _answer(self, request: Request) -> Response:
        raw = await request.body()
        principal = replace(
            FIXED_PRINCIPAL,
            tenant=request.headers.get("x-tenant", "acme"),
            groups=frozenset(request.headers.getlist("x-group")),
            user=request.headers.get("x-user"),
        )
        stream = bool(orjson.loads(raw).get("stream"))
        return await self.idempotency.respond(
            request, principal, raw, lambda: self._work(stream=stream)
        )

    async def post(
        self, key: str | None = "k", *, path: str = "/one", stream: bool = False, **more: Any
    ) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        for name in ("tenant", "group", "user"):
            if value := more.pop(name, None):
                headers[f"x-{name}"] = value
        body = orjson.dumps({"stream": stream} | more)
        return await self.client.post(path, content=body, headers=headers, timeout=10)


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, RingfenceError | EngineError)
    return error_response(error)


MakeStore = Callable[..., IdempotencyStore]
MakeReplica = Callable[..., Replica]


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before == {asyncio.current_task()}


@pytest.fixture
def make_store(valkey: Valkey, valkey_prefix: str) -> MakeStore:
    def build(*, over: Any = valkey, **settings: Any) -> IdempotencyStore:
        return IdempotencyStore(over, SECRET, prefix=valkey_prefix, **settings)

    return build


@pytest.fixture
async def make_replica(make_store: MakeStore) -> AsyncIterator[MakeReplica]:
    """Make gateways on the same Valkey: `make_replica(work, store=..., ...)`."""
    async with AsyncExitStack() as stack:

        def build(work: Work, *, store: IdempotencyStore | None = None, **settings: Any) -> Replica:
            made = Replica(store or make_store(), work, **settings)
            stack.push_async_callback(made.client.aclose)
            stack.push_async_callback(made.idempotency.close)
            return made

        yield build


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def replica(make_replica: MakeReplica, work: Work) -> Replica:
    return make_replica(work)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, orjson.loads(answer.content)["error"]["code"]


def own_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in OF_EACH}


@MODES
async def test_request_without_a_key_runs_each_time(
    replica: Replica, work: Work, *, stream: bool
) -> None:
    answers = [await replica.post(None, stream=stream) for _ in range(2)]
    assert (work.runs, {answer.status_code for answer in answers}) == (2, {200})


async def test_request_without_a_key_stops_when_its_client_goes_away(
    make_replica: MakeReplica,
) -> None:
    work = Work(asyncio.Event())
    async with listening(make_replica(work).app) as port, Connection.open(port) as connection:
        await connection.send(raw_post(key=None))
        await connection.until(b"run 1")
        connection.hang_up(abruptly=True)
        assert await eventually(lambda: work.open == 0)


@MODES
async def test_repeat_gets_the_same_bytes_from_one_run(
    replica: Replica, work: Work, *, stream: bool
) -> None:
    first, second = [await replica.post(stream=stream) for _ in range(2)]
    assert (second.status_code, second.content) == (200, first.content)
    assert work.runs == 1


@MODES
async def test_repeat_gets_the_headers_of_the_first_and_is_marked(
    replica: Replica, *, stream: bool
) -> None:
    first, second = [await replica.post(stream=stream) for _ in range(2)]
    assert own_headers(second) == own_headers(first) | {"idempotent-replayed": "true"}


async def test_repeat_has_a_request_id_of_its_own(replica: Replica) -> None:
    answers = [await replica.post() for _ in range(2)]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert [len(one) for one in ids] == [1, 1]
    assert ids[0] != ids[1]


@MODES
async def test_parallel_repeats_on_two_replicas_get_the_same_bytes_from_one_run(
    make_replica: MakeReplica, *, stream: bool
) -> None:
    work = Work(0.2, MORE, 0.2)
    replicas = [make_replica(work), make_replica(work)]
    answers = await asyncio.gather(*(replicas[at % 2].post(stream=stream) for at in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert work.runs == 1


async def test_repeat_of_a_stream_gets_deltas_while_the_first_still_runs(
    make_replica: MakeReplica,
) -> None:
    go_on = asyncio.Event()
    replica = make_replica(Work(go_on))
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(replica.app))
        clients = [await stack.enter_async_context(Connection.open(port)) for _ in range(2)]
        for client in clients:
            await client.send(raw_post())
            await client.until(b"run 1")
        go_on.set()
        first, second = [dechunked(await client.until(b"0\r\n\r\n")) for client in clients]
    assert first == second


@pytest.mark.parametrize("abruptly", [False, True])
@MODES
async def test_client_that_lost_its_connection_gets_the_whole_answer_of_the_one_run(
    make_replica: MakeReplica, *, stream: bool, abruptly: bool
) -> None:
    go_on = asyncio.Event()
    work = Work(go_on, MORE)
    replica = make_replica(work)
    async with listening(replica.app) as port, Connection.open(port) as connection:
        await connection.send(raw_post(stream=stream))
        assert await eventually(lambda: work.open == 1)
        if stream:
            await connection.until(b"run 1")
        connection.hang_up(abruptly=abruptly)
        await asyncio.sleep(0.1)
        go_on.set()
        answer = await replica.post(stream=stream)
    assert (answer.status_code, work.runs) == (200, 1)
    assert b"run 1" in answer.content
    assert b"more" in answer.content


async def test_key_with_another_body_is_refused(replica: Replica, work: Work) -> None:
    await replica.post(seed=1)
    assert code(await replica.post(seed=2)) == (409, "idempotency_key_reused")
    assert work.runs == 1


async def test_key_on_another_path_is_refused(replica: Replica) -> None:
    await replica.post(path="/one")
    assert code(await replica.post(path="/two")) == (409, "idempotency_key_reused")


@pytest.mark.parametrize("rights", [{}, {"group": "legal"}, {"group": "hr", "user": "ann"}])
async def test_who_may_read_other_files_gets_no_answer_of_somebody_else(
    replica: Replica, rights: dict[str, Any]
) -> None:
    await replica.post(group="hr")
    assert code(await replica.post(**rights)) == (409, "idempotency_key_reused")


async def test_same_key_of_another_tenant_runs(replica: Replica, work: Work) -> None:
    first, second = [await replica.post(tenant=tenant) for tenant in ("acme", "globex")]
    assert (work.runs, first.content == second.content) == (2, False)


async def test_key_runs_again_after_its_time(
    make_replica: MakeReplica, make_store: MakeStore, work: Work
) -> None:
    replica = make_replica(work, store=make_store(ttl_s=0.2))
    await replica.post()
    await asyncio.sleep(0.4)
    assert "idempotent-replayed" not in (await replica.post(seed=2)).headers
    assert work.runs == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("No.", param="seed"), 400),
        (EngineOverloaded("Full."), 503),
        (EngineFailed("Broken."), 500),
        (RuntimeError("a bug"), 500),
    ],
)
@MODES
async def test_refusal_is_told_as_it_is_and_forgotten(
    replica: Replica, work: Work, error: Exception, status: int, *, stream: bool
) -> None:
    work.error = error
    refused = await replica.post(stream=stream)
    work.error = None
    await replica.idempotency.close()
    again = await replica.post(stream=stream)
    assert (refused.status_code, again.status_code, work.runs) == (status, 200, 2)


async def test_refusal_before_the_first_delta_is_told_to_all_who_wait(
    make_replica: MakeReplica,
) -> None:
    class Refusing(Work):
        async def _stream(self, *_: object) -> None:
            await asyncio.sleep(0.2)
            raise EngineOverloaded("Full.")

    work = Refusing()
    replicas = [make_replica(work), make_replica(work)]
    answers = await asyncio.gather(*(replicas[at % 2].post(stream=True) for at in range(6)))
    assert {code(answer) for answer in answers} == {(503, "overloaded")}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert work.runs == 1


async def test_stream_that_failed_midway_is_kept_with_its_error(make_replica: MakeReplica) -> None:
    work = Work(EngineFailed("Broken."))
    replica = make_replica(work)
    first, second = [await replica.post(stream=True) for _ in range(2)]
    assert b'"engine_failed"' in first.content
    assert (second.content, work.runs) == (first.content, 1)


@MODES
async def test_answer_too_large_to_keep_is_given_once(
    make_replica: MakeReplica, make_store: MakeStore, work: Work, *, stream: bool
) -> None:
    work.size = 5000
    replica = make_replica(work, store=make_store(max_bytes=4000))
    first = await replica.post(stream=stream)
    assert await eventually(lambda: not replica.idempotency._tasks)
    assert (first.status_code, first.content.count(b"x" * 5000)) == (200, 1)
    assert code(await replica.post(stream=stream)) == (409, "idempotency_response_too_large")
    assert work.runs == 1


class Severed:
    """A Valkey that can be cut off, and can be slow."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._nowhere = Valkey.open("redis://127.0.0.1:1")
        self.cut = False
        self.delay_s = 0.0

    async def run(self, script: str, *args: bytes | str | int) -> Any:
        await asyncio.sleep(self.delay_s)
        return await (self._nowhere if self.cut else self._valkey).run(script, *args)

    async def command(self, *words: bytes | str | float) -> Any:
        return await (self._nowhere if self.cut else self._valkey).command(*words)


async def test_nothing_runs_while_valkey_is_away(
    make_replica: MakeReplica, make_store: MakeStore, valkey: Valkey, work: Work
) -> None:
    severed = Severed(valkey)
    severed.cut = True
    answer = await make_replica(work, store=make_store(over=severed)).post()
    assert code(answer) == (503, "idempotency_unavailable")
    assert (answer.headers["retry-after"], work.runs) == ("5", 0)


async def test_request_without_a_key_runs_while_valkey_is_away(
    make_replica: MakeReplica, make_store: MakeStore, valkey: Valkey, work: Work
) -> None:
    severed = Severed(valkey)
    severed.cut = True
    answer = await make_replica(work, store=make_store(over=severed)).post(None)
    assert (answer.status_code, work.runs) == (200, 1)


@MODES
async def test_answer_goes_on_when_valkey_is_lost(
    make_replica: MakeReplica, make_store: MakeStore, valkey: Valkey, *, stream: bool
) -> None:
    severed, go_on = Severed(valkey), asyncio.Event()
    work = Work(go_on, MORE)
    replica = make_replica(work, store=make_store(over=severed, lease_s=0.3))
    asking = asyncio.create_task(replica.post(stream=stream))
    assert await eventually(lambda: work.open == 1)
    severed.cut = True
    await asyncio.sleep(0.1)
    go_on.set()
    answer = await asking
    assert (answer.status_code, b"more" in answer.content) == (200, True)


@dataclass(slots=True)
class Pair:
    """Two gateways: one is stuck in its work and can be killed, and one works."""

    stuck: Work
    work: Work
    killed: Replica
    other: Replica
    severed: Severed

    async def ask_killed(self, *, stream: bool) -> asyncio.Task[httpx.Response]:
        """Start a request on the gateway that will be killed."""
        asking = asyncio.create_task(self.killed.post(stream=stream))
        assert await eventually(lambda: self.stuck.open == 1)
        return asking

    async def kill(self) -> None:
        """Kill the gateway, which leaves only a lease that expires."""
        self.severed.cut = True
        await self.killed.idempotency.close(grace_s=0)


@pytest.fixture
def pair(make_replica: MakeReplica, make_store: MakeStore, valkey: Valkey) -> Pair:
    stuck, work, severed = Work(asyncio.Event()), Work(), Severed(valkey)
    killed = make_replica(stuck, store=make_store(over=severed, lease_s=1.5))
    return Pair(stuck, work, killed, make_replica(work), severed)


@MODES
async def test_repeats_after_the_gateway_was_killed_run_once(pair: Pair, *, stream: bool) -> None:
    lost = await pair.ask_killed(stream=stream)
    await pair.kill()
    await lost
    answers = await asyncio.gather(*(pair.other.post(stream=stream) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert (pair.work.runs, len({answer.content for answer in answers})) == (1, 1)


async def test_unstreamed_followers_of_a_killed_gateway_take_over(pair: Pair) -> None:
    lost = await pair.ask_killed(stream=False)
    followers = [asyncio.create_task(pair.other.post()) for _ in range(10)]
    await asyncio.sleep(0.1)
    await pair.kill()
    answers = await asyncio.gather(*followers)
    assert {answer.status_code for answer in answers} == {200}
    assert (pair.work.runs, len({answer.content for answer in answers})) == (1, 1)
    assert code(await lost) == (503, "idempotency_unavailable")


async def test_half_of_an_unstreamed_answer_is_not_given_to_followers(pair: Pair) -> None:
    class Half(Work):
        async def _collect(self, run: int, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            body = b"half of run %d" % run
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.Event().wait()

    pair.stuck = pair.killed._work = Half()
    lost = await pair.ask_killed(stream=False)
    follower = asyncio.create_task(pair.other.post())
    await asyncio.sleep(0.3)
    await pair.kill()
    assert orjson.loads((await follower).content)["text"].startswith(": start")
    with pytest.raises(AssertionError):  # httpx's; a server would cut the connection.
        await lost


async def test_stream_of_a_killed_gateway_ends_with_an_error_for_its_followers(pair: Pair) -> None:
    lost = await pair.ask_killed(stream=True)
    follower = asyncio.create_task(pair.other.post(stream=True))
    await asyncio.sleep(0.3)
    await pair.kill()
    for answer in (await follower, await lost):
        assert b"run 1" in answer.content
        assert answer.content.endswith(b'"code":"idempotency_unavailable"}}\n\n')
    assert pair.work.runs == 0


@pytest.mark.parametrize("key", [" ", "~" * 255, "a b", '"8e03978e"'])
async def test_key_may_be_any_printable_ascii(replica: Replica, key: str) -> None:
    assert await call(replica, [key.encode()]) == 200


@pytest.mark.parametrize(
    "keys", [[b""], [b"a" * 256], [b"caf\xc3\xa9"], [b"a\tb"], [b"a\x7f"], [b"a", b"a"]]
)
async def test_key_that_cannot_be_is_refused(
    replica: Replica, work: Work, keys: list[bytes]
) -> None:
    assert (await call(replica, keys), work.runs) == (400, 0)


async def test_refusal_of_a_key_names_the_header(replica: Replica) -> None:
    refused = orjson.loads((await replica.post("a" * 256)).content)["error"]
    assert refused["param"] == "Idempotency-Key"
    assert "Idempotency-Key" in refused["message"]


async def call(replica: Replica, keys: list[bytes]) -> int:
    """Return the status of a request with raw headers."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await ask(replica, keys, send)
    return statuses[0]


async def ask(replica: Replica, keys: list[bytes], send: Send) -> None:
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.sleep(10)
        return {"type": "http.disconnect"}

    headers = [(b"idempotency-key", key) for key in keys]
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/one", "query_string": b"", "headers": headers,
    }  # fmt: skip
    await replica.app(scope, receive, send)


async def test_work_that_takes_too_long_is_ended(make_replica: MakeReplica) -> None:
    work = Work(asyncio.Event())
    answer = await make_replica(work, run_deadline_s=0.1).post()
    assert (answer.status_code, work.open) == (500, 0)


async def test_client_that_stopped_reading_is_given_up(
    make_replica: MakeReplica, work: Work
) -> None:
    replica = make_replica(work, send_deadline_s=0.1)

    async def send(_: Message) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await ask(replica, [b"k"], send)
    assert (await call(replica, [b"k"]), work.runs) == (200, 1)


async def test_client_that_reads_too_slowly_is_told_to_repeat() -> None:
    inbox, piece = _Inbox(), b"x" * (MAX_UNREAD_BYTES // 2)
    for _ in range(100):
        inbox.put({"type": "http.response.body", "body": piece, "more_body": True})
    taken = inbox.messages()
    assert [len((await anext(taken))["body"]) for _ in range(2)] == [len(piece)] * 2
    with pytest.raises(ReaderTooSlow, match="Repeat the request with the same key"):
        await anext(taken)


async def test_client_that_keeps_up_may_read_any_length() -> None:
    inbox = _Inbox()
    taken = inbox.messages()
    for size in [MAX_UNREAD_BYTES] * 5 + [3 * MAX_UNREAD_BYTES]:
        inbox.put({"type": "http.response.body", "body": bytes(size), "more_body": True})
        assert len((await anext(taken))["body"]) == size


async def test_work_is_cancelled_when_the_gateway_closes(make_replica: MakeReplica) -> None:
    work = Work(asyncio.Event())
    replica, other = make_replica(work), make_replica(Work())
    asking = asyncio.create_task(replica.post())
    assert await eventually(lambda: work.open == 1)
    await replica.idempotency.close(grace_s=0)
    assert (work.open, code(await asking)) == (0, (503, "idempotency_unavailable"))
    assert (await other.post()).status_code == 200


async def test_answer_that_is_ending_is_kept_when_the_gateway_closes(
    make_replica: MakeReplica, make_store: MakeStore, valkey: Valkey, work: Work
) -> None:
    slow = Severed(valkey)
    slow.delay_s = 0.1
    replica = make_replica(work, store=make_store(over=slow))
    await replica.post()
    await replica.idempotency.close()
    await make_replica(work).post()
    assert work.runs == 1


def raw_post(*, key: str | None = "k", stream: bool = True) -> bytes:
    body = orjson.dumps({"stream": stream})
    fields = {"Content-Length": str(len(body))} | ({} if key is None else {"Idempotency-Key": key})
    return head("/one", key="any", fields=fields) + body
