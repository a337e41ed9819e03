"""`RemoteEngine`: values become errors again, silence ends, and closing cancels."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Self

import grpc
import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)

from models.engine import (
    ContextLengthExceeded,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
    GenerationRequest,
    RequestRejected,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.remote_engine import RemoteEngine

REQUEST = GenerationRequest("r1", "chat", {})
USAGE = Usage(3, 2)
NEVER = 60.0


class FakeHandle:
    """A handle, its methods and its one response: items after waits, or one value."""

    def __init__(self, *items: Any, value: Any = None) -> None:
        self._items = list(items)
        self._value = value
        self.generate = self.tokenize = self.detokenize = self
        self.asked: list[Any] = []
        self.streams = False
        self.cancelled = 0

    def options(self, *, stream: bool) -> Self:
        self.streams = stream
        return self

    def remote(self, request: Any) -> Self:
        self.asked.append(request)
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if isinstance(item, float):
            await asyncio.sleep(item)
            return await self.__anext__()
        if isinstance(item, BaseException):
            raise item
        return item

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        if isinstance(self._value, float):
            await asyncio.sleep(self._value)
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


def engine(
    handle: FakeHandle, *, first_delta_timeout_s: float = 5, stall_timeout_s: float = 5
) -> RemoteEngine:
    return RemoteEngine(
        handle,
        first_delta_timeout_s=first_delta_timeout_s,
        stall_timeout_s=stall_timeout_s,
    )


async def generated(remote: RemoteEngine) -> list[Any]:
    async with aclosing(remote.generate(REQUEST)) as items:
        return [item async for item in items]


async def test_items_come_as_the_deployment_sends_them() -> None:
    handle = FakeHandle(b"a", b"b", USAGE)
    assert await generated(engine(handle)) == [b"a", b"b", USAGE]
    assert (handle.asked, handle.streams) == ([REQUEST], True)


async def test_failure_that_was_sent_is_raised_with_its_field() -> None:
    handle = FakeHandle(b"a", Failure(ContextLengthExceeded, "Too long.", "messages"))
    with pytest.raises(ContextLengthExceeded, match=r"Too long\.") as caught:
        await generated(engine(handle))
    assert caught.value.param == "messages"
    assert handle.cancelled == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), EngineOverloaded),
        (ActorDiedError(), EngineUnavailable),
        (RayTaskError("generate", "canary", ValueError("canary")), EngineUnavailable),
        (TaskCancelledError(), EngineUnavailable),
        (RayServeException("canary"), EngineUnavailable),
        (DeploymentUnavailableError(None), EngineUnavailable),
        (RequestCancelledError("canary"), EngineUnavailable),
        (grpc.RpcError("canary"), EngineUnavailable),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
@pytest.mark.parametrize("before", [(), (b"a",)], ids=["before_the_first_delta", "after"])
async def test_failure_of_ray_is_told_in_our_words(
    error: Exception, told: type[Exception], before: tuple[bytes, ...]
) -> None:
    for call in (
        generated(engine(FakeHandle(*before, error))),
        engine(FakeHandle(value=error)).tokenize(TokenizeRequest(prompt="Hi")),
        engine(FakeHandle(value=error)).detokenize([1]),
    ):
        with pytest.raises(told) as caught:
            await call
        assert "canary" not in str(caught.value)


async def test_time_out_of_ray_is_a_time_out() -> None:
    with pytest.raises(EngineTimeout):
        await generated(engine(FakeHandle(GetTimeoutError("canary"))))


async def test_first_delta_has_a_deadline_of_its_own() -> None:
    handle = FakeHandle(NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.02 s"):
        await generated(engine(handle, first_delta_timeout_s=0.02))
    assert handle.cancelled == 1


async def test_later_deltas_have_another_deadline() -> None:
    handle = FakeHandle(0.03, b"a", NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.01 s"):
        await generated(engine(handle, stall_timeout_s=0.01))
    assert handle.cancelled == 1


async def test_slow_reader_is_not_a_stalled_engine() -> None:
    remote = engine(FakeHandle(b"a", b"b", USAGE), stall_timeout_s=0.02)
    read = []
    async with aclosing(remote.generate(REQUEST)) as items:
        async for item in items:
            read.append(item)
            await asyncio.sleep(0.03)
    assert read == [b"a", b"b", USAGE]


async def test_closing_the_generator_cancels_the_request() -> None:
    handle = FakeHandle(b"a", NEVER)
    async with aclosing(engine(handle).generate(REQUEST)) as items:
        await anext(items)
        assert handle.cancelled == 0
    assert handle.cancelled == 1


async def test_cancelling_the_reader_cancels_the_request() -> None:
    handle = FakeHandle(NEVER)
    task = asyncio.create_task(generated(engine(handle)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.cancelled == 1


async def test_generator_that_is_never_started_asks_for_nothing() -> None:
    handle = FakeHandle(b"a")
    async with aclosing(engine(handle).generate(REQUEST)):
        pass
    assert handle.asked == []


async def test_answers_of_single_calls_come_through() -> None:
    tokens = Tokens([1, 2], 64)
    assert await engine(FakeHandle(value=tokens)).tokenize(TokenizeRequest(prompt="a")) == tokens
    assert await engine(FakeHandle(value="text")).detokenize([1, 2]) == "text"


async def test_failure_as_the_answer_of_a_single_call_is_raised() -> None:
    handle = FakeHandle(value=Failure(RequestRejected, "No.", "tokens"))
    with pytest.raises(RequestRejected, match=r"No\."):
        await engine(handle).detokenize([1])


async def test_single_call_has_a_deadline() -> None:
    handle = FakeHandle(value=NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.01 s"):
        await engine(handle, stall_timeout_s=0.01).tokenize(TokenizeRequest(prompt="a"))
    assert handle.cancelled == 1


async def test_single_call_that_is_cancelled_cancels_its_request() -> None:
    handle = FakeHandle(value=NEVER)
    task = asyncio.create_task(engine(handle).detokenize([1]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.cancelled == 1
