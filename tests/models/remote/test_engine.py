"""`RemoteEngine`: values become errors again, silence times out, and closing cancels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
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

from models.delivery.frames import Address
from models.delivery.receiver import MAX_UNREAD_BYTES, Receiver
from models.delivery.sender import Sender
from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
    GenerationRequest,
    ReaderTooSlow,
    TokenizeRequest,
    Usage,
)
from models.remote.engine import RemoteEngine
from tests.serving.live import eventually

REQUEST = GenerationRequest("r1", "chat", {})
USAGE = Usage(3, 2)
NEVER = 60.0

used: list[Sender] = []


class FakeHandle:
    """A handle, its methods and its one response: items that a real sender delivers, or one value.

    Among the items, a number is a wait, and an error is raised by the call itself.
    """

    def __init__(self, *items: Any, value: Any = None) -> None:
        self._items = list(items)
        self._value = value
        self._sender = Sender()
        used.append(self._sender)
        self._raised: BaseException | None = None
        self._delivery: asyncio.Task[Failure | None] | None = None
        self.tokenize = self.detokenize = self
        self.asked: list[Any] = []
        self.method = ""
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    def options(self, *, method_name: str, **_: str) -> Self:
        self.method = method_name
        return self

    def remote(self, request: Any, address: Address | None = None) -> Self:
        self.asked.append(request)
        if address is not None:
            delivery = self._sender.deliver(self._play(), address, failure=_told)
            self._delivery = asyncio.create_task(delivery)
        return self

    def cancel(self) -> None:
        self.cancelled += 1
        if self._delivery is not None:
            self._delivery.cancel()

    async def _play(self) -> AsyncGenerator[Any, None]:
        for item in self._items:
            if isinstance(item, float):
                await asyncio.sleep(item)
            elif isinstance(item, EngineError):
                raise item
            elif isinstance(item, BaseException):
                self._raised = item
                return
            else:
                yield item

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        if self._delivery is not None:
            failure = await self._delivery
            await self.may_end.wait()
            if self._raised is not None:
                raise self._raised
            return failure
        if isinstance(self._value, float):
            await asyncio.sleep(self._value)
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


def _told(error: Exception) -> Failure:
    assert isinstance(error, EngineError)
    return Failure.of(error)


def engine(
    handle: FakeHandle,
    receiver: Receiver,
    *,
    first_delta_timeout_s: float = 5,
    stall_timeout_s: float = 5,
) -> RemoteEngine:
    return RemoteEngine(
        handle,
        receiver,
        first_delta_timeout_s=first_delta_timeout_s,
        stall_timeout_s=stall_timeout_s,
    )


@pytest.fixture(autouse=True)
async def senders() -> AsyncIterator[None]:
    yield
    while used:
        used.pop().close()
    await asyncio.sleep(0)


async def generated(remote: RemoteEngine) -> list[Any]:
    """Join consecutive deltas, because the network decides how they are split."""
    joined: list[Any] = []
    async with aclosing(remote.generate(REQUEST)) as items:
        async for item in items:
            if joined and isinstance(joined[-1], bytes) and isinstance(item, bytes):
                joined[-1] += item
            else:
                joined.append(item)
    return joined


async def test_items_come_as_the_deployment_sends_them(receiver: Receiver) -> None:
    handle = FakeHandle(b"a", b"b", USAGE)
    assert await generated(engine(handle, receiver)) == [b"ab", USAGE]
    assert (handle.asked, handle.method) == ([REQUEST], "generate")


async def test_failure_that_was_sent_is_raised_with_its_field(receiver: Receiver) -> None:
    handle = FakeHandle(b"a", ContextLengthExceeded("Too long.", param="messages"))
    with pytest.raises(ContextLengthExceeded, match=r"Too long\.") as caught:
        await generated(engine(handle, receiver))
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
    error: Exception, told: type[Exception], before: tuple[bytes, ...], receiver: Receiver
) -> None:
    for call in (
        generated(engine(FakeHandle(*before, error), receiver)),
        engine(FakeHandle(value=error), receiver).tokenize(TokenizeRequest(prompt="Hi")),
        engine(FakeHandle(value=error), receiver).detokenize([1]),
    ):
        with pytest.raises(told) as caught:
            await call
        assert "canary" not in str(caught.value)


async def test_time_out_of_ray_is_a_time_out(receiver: Receiver) -> None:
    with pytest.raises(EngineTimeout):
        await generated(engine(FakeHandle(GetTimeoutError("canary")), receiver))


async def test_first_delta_has_a_deadline_of_its_own(receiver: Receiver) -> None:
    handle = FakeHandle(NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.02 s"):
        await generated(engine(handle, receiver, first_delta_timeout_s=0.02))
    assert handle.cancelled == 1


async def test_later_deltas_have_another_deadline(receiver: Receiver) -> None:
    handle = FakeHandle(0.03, b"a", NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.01 s"):
        await generated(engine(handle, receiver, stall_timeout_s=0.01))
    assert handle.cancelled == 1


async def test_slow_reader_is_not_a_stalled_engine(receiver: Receiver) -> None:
    remote = engine(FakeHandle(b"a", b"b", USAGE), receiver, stall_timeout_s=0.5)
    read = []
    async with aclosing(remote.generate(REQUEST)) as items:
        async for item in items:
            read.append(item)
            await asyncio.sleep(0.6)
    assert read in ([b"a", b"b", USAGE], [b"ab", USAGE])


async def test_answer_that_nobody_reads_cancels_the_request(receiver: Receiver) -> None:
    piece = b"x" * (MAX_UNREAD_BYTES // 2)
    handle = FakeHandle(b"first", 0.01, *[piece, 0.01] * 8, NEVER)
    async with asyncio.timeout(60), aclosing(engine(handle, receiver).generate(REQUEST)) as answer:
        assert await anext(answer) == b"first"
        while not handle.cancelled:  # noqa: ASYNC110  A count of the fake's.
            await asyncio.sleep(0.01)
        assert await anext(answer) == piece * 2
        with pytest.raises(ReaderTooSlow):
            await anext(answer)


async def test_single_call_has_a_deadline(receiver: Receiver) -> None:
    handle = FakeHandle(value=NEVER)
    with pytest.raises(EngineTimeout, match=r"0\.01 s"):
        await engine(handle, receiver, stall_timeout_s=0.01).tokenize(TokenizeRequest(prompt="a"))
    assert handle.cancelled == 1


async def test_single_call_that_is_cancelled_cancels_its_request(receiver: Receiver) -> None:
    handle = FakeHandle(value=NEVER)
    task = asyncio.create_task(engine(handle, receiver).detokenize([1]))
    assert await eventually(lambda: len(handle.asked) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.cancelled == 1


async def test_unknown_error_of_a_call_is_told_without_its_text(receiver: Receiver) -> None:
    with pytest.raises(EngineFailed) as caught:
        await generated(engine(FakeHandle(b"a", RuntimeError("canary")), receiver))
    assert "canary" not in str(caught.value)


async def test_complete_answer_is_not_cancelled(receiver: Receiver) -> None:
    handle = FakeHandle(b"a", USAGE)
    await generated(engine(handle, receiver))
    assert handle.cancelled == 0


async def test_answer_ends_when_its_call_has(receiver: Receiver) -> None:
    handle = FakeHandle(b"a", USAGE)
    handle.may_end.clear()
    async with aclosing(engine(handle, receiver).generate(REQUEST)) as items:
        assert [await anext(items), await anext(items)] == [b"a", USAGE]
        end = asyncio.ensure_future(anext(items, None))
        await asyncio.sleep(0.05)
        assert not end.done()
        handle.may_end.set()
        assert await end is None


async def test_call_that_does_not_end_does_not_hold_its_answer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.remote.engine.CALL_END_DEADLINE_S", 0.02)
    handle = FakeHandle(b"a", USAGE)
    handle.may_end.clear()
    assert await generated(engine(handle, receiver)) == [b"a", USAGE]


@pytest.mark.parametrize("last", [USAGE, NEVER, EngineFailed("no")])
async def test_no_stream_is_kept_after_its_end(receiver: Receiver, last: Any) -> None:
    before = len(receiver._streams)
    with suppress(EngineFailed):
        async with aclosing(engine(FakeHandle(b"a", last), receiver).generate(REQUEST)) as items:
            async for _ in items:
                if last is NEVER:
                    break
    assert len(receiver._streams) == before


async def test_answer_without_an_end_does_not_wait_for_one(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.delivery.receiver.ARRIVAL_DEADLINE_S", 0.02)
    with pytest.raises(EngineTimeout):
        await generated(engine(FakeHandle(b"a"), receiver))
