"""Large bodies are bounded for each key, and parsed where they stop nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import orjson
import pytest
from pydantic import model_validator
from starlette.requests import Request
from starlette.types import Message

from serving.config import LimitSettings, ServerSettings
from serving.domain.errors import InvalidRequest, Overloaded, RateLimited
from serving.domain.principal import Principal
from serving.gateway.edge import Edge
from serving.gateway.idempotency import Idempotency
from serving.gateway.large_bodies import (
    BODIES_OF_A_KEY,
    BODIES_OF_ALL,
    LARGE_BYTES,
    LargeBodies,
)
from serving.gateway.open_requests import OpenRequests
from serving.gateway.wire.conversation import Wire
from serving.idempotency.store import IdempotencyStore
from serving.storage.valkey import Valkey
from tests.serving.conftest import SECRET, Make
from tests.serving.fakes import ROLE, WHOLE, ScriptedEngine
from tests.serving.gateway.test_admission import UNREACHABLE, told
from tests.serving.test_pipeline import ANYONE

HANG_S = 30.0
CHAT = "/v1/chat/completions"
LONG = "word " * LARGE_BYTES


def bodies(**options: Any) -> LargeBodies:
    return LargeBodies(100, **options)


def test_bytes_of_a_key_are_bounded_and_free_again_at_the_end() -> None:
    large = bodies()
    with large.held("k") as hold, large.held("other") as hold_other:
        for _ in range(BODIES_OF_A_KEY):
            hold(100)
        with pytest.raises(RateLimited), large.held("k") as hold_more:
            hold_more(1)
        hold_other(100)
    with large.held("k") as hold:
        hold(BODIES_OF_A_KEY * 100)


def test_bytes_of_all_keys_are_bounded() -> None:
    large = bodies()
    with ExitStack() as stack:
        for number in range(BODIES_OF_ALL):
            stack.enter_context(large.held(f"k{number}"))(100)
        with pytest.raises(Overloaded), large.held("one more") as hold:
            hold(1)
    assert not large._of_key
    with large.held("k") as hold:
        hold(100)


class Work:
    """Parsing that goes on until it may end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(HANG_S)
        return threading.current_thread().name

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, HANG_S)


async def test_key_has_one_body_parsed_at_a_time_and_stops_no_other() -> None:
    large, first, second, other = bodies(), Work(), Work(), Work()
    running = [asyncio.create_task(large.parsed("k", work)) for work in (first, second)]
    await first.has_begun()
    other.may_end.set()
    assert (await large.parsed("other", other)).startswith("ringfence-bodies")
    assert not second.begun.is_set()
    first.may_end.set()
    await second.has_begun()
    second.may_end.set()
    await asyncio.gather(*running)


async def test_parsing_that_takes_too_long_is_refused_and_keeps_its_key_s_turn() -> None:
    large, stuck, other = bodies(timeout_s=0.05), Work(), Work()
    for _ in range(3):
        with pytest.raises(Overloaded):
            await large.parsed("k", stuck)
    other.may_end.set()
    async with asyncio.timeout(HANG_S):
        while True:  # The machine may be slow, the thread is there.
            try:
                await large.parsed("other", other)
                break
            except Overloaded:
                continue
    stuck.may_end.set()


async def test_error_of_a_parser_is_told_and_ends_its_turn() -> None:
    def wrong() -> None:
        raise InvalidRequest("no")

    large = bodies()
    for _ in range(3):
        with pytest.raises(InvalidRequest):
            await large.parsed("k", wrong)


class Noted(Wire):
    """A body that tells in which thread it was validated."""

    text: str
    thread: int = 0

    @model_validator(mode="after")
    def _note(self) -> Self:
        self.__dict__["thread"] = threading.get_ident()
        return self


async def nobody_asks(_: str | None) -> Principal:
    return ANYONE


@pytest.fixture
def edge(valkey: Valkey) -> Callable[[int], Edge]:
    def build(max_body_bytes: int) -> Edge:
        idempotency = Idempotency(IdempotencyStore(valkey, SECRET), requests=OpenRequests())
        server = ServerSettings(max_body_bytes=max_body_bytes)
        return Edge(nobody_asks, idempotency, server=server, limits=LimitSettings())

    return build


def post(*messages: Message | asyncio.Event) -> Request:
    """A request whose body comes in pieces, after events."""
    left = list(messages)

    async def receive() -> Message:
        while isinstance(step := left.pop(0), asyncio.Event):
            await step.wait()
        return step

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "request_id": "r1"}
    request = Request(scope, receive)
    request.state.principal = ANYONE
    return request


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_large_body_is_parsed_in_a_thread_and_a_small_one_is_not(
    edge: Callable[[int], Edge],
) -> None:
    here = threading.get_ident()
    reader = edge(1024 * 1024)
    small = await reader.read(post(piece(orjson.dumps({"text": "Hi"}))), Noted)
    large = await reader.read(post(piece(orjson.dumps({"text": LONG}))), Noted)
    assert (small.thread == here, large.thread == here) == (True, False)


async def test_bodies_that_are_on_their_way_are_bounded(edge: Callable[[int], Edge]) -> None:
    reader, rest = edge(1024), asyncio.Event()
    half = b'{"text": "' + b"x" * 1000
    slow = [
        asyncio.create_task(reader.read(post(piece(half, more=True), rest, piece(b'"}')), Noted))
        for _ in range(BODIES_OF_A_KEY)
    ]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await reader.read(post(piece(half + b'"}')), Noted)
    rest.set()
    assert len(await asyncio.gather(*slow)) == BODIES_OF_A_KEY
    assert (await reader.read(post(piece(half + b'"}')), Noted)).text


WRONG = b'{"model": "chat", "messages": "' + b"x" * 2 * LARGE_BYTES + b'"}'
"""A large body that nothing but parsing shows to be wrong."""


async def test_large_body_is_not_parsed_for_a_key_that_has_used_up_its_requests(
    make: Make,
) -> None:
    backend = make(admission={"per_key": {"requests_per_minute": 1}})
    assert (await backend.post(CHAT, WRONG)).status_code == 400
    assert (await backend.chat(max_tokens=1)).status_code == 200
    refused = await backend.post(CHAT, WRONG)
    assert (refused.status_code, told(refused)["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    label = 'endpoint="unread",model="unread",outcome="rate_limit_exceeded"'
    assert await backend.metric(f"ringfence_requests_total{{{label}}}") == 1


async def test_large_body_is_not_parsed_for_a_key_whose_requests_all_run(make: Make) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(ROLE, gate, *WHOLE[1:])
    backend = make(engine, admission={"per_tenant": {"concurrent_requests": 1}})
    first = asyncio.create_task(backend.chat(max_tokens=1))
    await asyncio.wait_for(engine.started.wait(), HANG_S)
    assert (await backend.post(CHAT, WRONG)).status_code == 429
    gate.set()
    assert (await first).status_code == 200
    assert (await backend.post(CHAT, WRONG)).status_code == 400


async def test_large_request_counts_once(make: Make) -> None:
    roomy: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi"}],
        "user": LONG,
        "max_tokens": 1,
    }
    backend = make(admission={"per_key": {"requests_per_minute": 3}})
    answers = [await backend.chat(**roomy) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["2", "1", "0", "0"]


async def test_limit_of_a_model_is_not_asked_before_the_model_is_known(make: Make) -> None:
    backend = make(admission={"per_model": {"requests_per_minute": 0}})
    assert (await backend.post(CHAT, WRONG)).status_code == 400


async def test_large_body_is_parsed_while_valkey_is_away(make: Make) -> None:
    backend = make(
        storage={"valkey": UNREACHABLE}, admission={"per_key": {"requests_per_minute": 0}}
    )
    assert (await backend.post(CHAT, WRONG)).status_code == 400


async def test_repeat_of_a_large_request_is_answered_though_its_limit_is_used_up(
    make: Make,
) -> None:
    backend = make(admission={"per_key": {"requests_per_minute": 1}})
    backend.client.headers["idempotency-key"] = "large-once"
    answers = [await backend.chat(user=LONG, max_tokens=1) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
