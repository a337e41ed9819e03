"""Sender and receiver together, over real connections."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from models.delivery import frames
from models.delivery.frames import Address, FrameKind
from models.delivery.receiver import MAX_UNREAD_BYTES, Incoming, Receiver
from models.delivery.sender import Sender
from models.engine import (
    Delta,
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    Failure,
    ReaderTooSlow,
    Usage,
)
from tests.serving import virtual_time
from tests.serving.live import eventually

USAGE = Usage(1, 2)


@pytest.fixture
async def sender(receiver: Receiver) -> AsyncIterator[Sender]:  # noqa: ARG001  Ended before it.
    sender = Sender()
    yield sender
    sender.close()
    await asyncio.sleep(0.01)


def opened(receiver: Receiver, *, first_s: float = 60, stall_s: float = 60) -> Incoming:
    return receiver.open(first_timeout_s=first_s, stall_timeout_s=stall_s)


async def items(*given: Any) -> AsyncGenerator[Delta | Usage, None]:
    for item in given:
        if isinstance(item, float):
            await asyncio.sleep(item)
        elif isinstance(item, Exception):
            raise item
        else:
            yield item


def told(error: Exception) -> Failure:
    return Failure(EngineFailed, f"It was a {type(error).__name__}.")


async def _end(reader: asyncio.StreamReader) -> bytes:
    """Return the items that arrive before the connection ends in any way."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def taken(incoming: Incoming) -> tuple[bytes, Usage]:
    text = b""
    while isinstance(item := await incoming.take(), bytes):
        text += item
    return text, item


async def test_items_arrive_in_order_and_then_the_usage(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    delivered = await sender.deliver(
        items(b"a", 0.01, b"b", b"c", USAGE), incoming.address, failure=told
    )
    assert (delivered, await taken(incoming)) == (None, (b"abc", USAGE))


async def test_streams_of_one_sender_share_a_connection_and_stay_apart(
    receiver: Receiver, sender: Sender
) -> None:
    streams = [opened(receiver) for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for number, stream in enumerate(streams):
            text = b"%d," % number
            answer = items(text, 0.001, text, USAGE)
            tasks.create_task(sender.deliver(answer, stream.address, failure=told))
    answers = [await taken(stream) for stream in streams]
    assert answers == [(b"%d,%d," % (n, n), USAGE) for n in range(20)]
    assert len(receiver._links) == 1


async def test_first_delta_does_not_wait_for_the_second(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    task = asyncio.create_task(
        sender.deliver(items(b"a", 60.0, b"b"), incoming.address, failure=told)
    )
    async with asyncio.timeout(30):
        assert await incoming.take() == b"a"
    task.cancel()


async def test_backlog_is_taken_at_once(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    await sender.deliver(items(b"a", 0.01, b"b", 0.01, b"c"), incoming.address, failure=told)
    assert await eventually(lambda: b"".join(incoming._deltas) == b"abc")
    assert await incoming.take() == b"abc"


async def test_stream_that_nobody_reads_ends_and_holds_up_no_other(
    receiver: Receiver, sender: Sender
) -> None:
    unread, read, ended = opened(receiver), opened(receiver), asyncio.Event()
    unread.on_overrun = ended.set
    piece = b"x" * (MAX_UNREAD_BYTES // 8)

    async def endless() -> AsyncGenerator[Delta | Usage, None]:
        while True:
            yield piece
            await asyncio.sleep(0)

    delivering = asyncio.create_task(sender.deliver(endless(), unread.address, failure=told))
    async with asyncio.timeout(60):
        await ended.wait()
        await sender.deliver(items(b"a", USAGE), read.address, failure=told)
        assert [await read.take(), await read.take()] == [b"a", USAGE]
    delivering.cancel()
    assert await unread.take() == piece * 8
    with pytest.raises(ReaderTooSlow):
        await unread.take()


async def test_stream_that_is_read_may_be_of_any_length(receiver: Receiver, sender: Sender) -> None:
    stream, piece = opened(receiver), b"x" * (MAX_UNREAD_BYTES // 4)
    given = items(*[piece, 0.0] * 16, 2 * MAX_UNREAD_BYTES * b"y", USAGE)
    delivering = asyncio.create_task(sender.deliver(given, stream.address, failure=told))
    size = 0
    async with asyncio.timeout(60):
        while isinstance(taken := await stream.take(), bytes):
            size += len(taken)
        await delivering
    assert (taken, size) == (USAGE, 6 * MAX_UNREAD_BYTES)


async def test_error_of_the_items_comes_last_as_a_value(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    await sender.deliver(items(b"a", ValueError("canary")), incoming.address, failure=told)
    assert await incoming.take() == b"a"
    with pytest.raises(EngineFailed, match=r"It was a ValueError\."):
        await incoming.take()


async def test_wrong_token_is_not_let_in(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver, first_s=0.2)
    forged = replace(incoming.address, token=bytes(32))
    await sender.deliver(items(b"a", 0.05, b"b", USAGE), forged, failure=told)
    with pytest.raises(EngineTimeout):
        await incoming.take()


@pytest.mark.parametrize("sent", [b"", b"short"])
async def test_connection_without_a_token_is_closed(
    receiver: Receiver, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.delivery.receiver.GREETING_DEADLINE_S", 0.02)
    address = opened(receiver).address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(sent)
    async with asyncio.timeout(30):
        assert await _end(reader) == b""
    writer.close()


async def test_malformed_frame_ends_the_connection_and_its_streams(receiver: Receiver) -> None:
    incoming = opened(receiver)
    reader, writer = await asyncio.open_connection(incoming.address.host, incoming.address.port)
    header, payload = frames.encode(incoming.address.stream, b"a")
    writer.write(incoming.address.token + header + payload + b"\xff" * 13)
    assert await incoming.take() == b"a"
    with pytest.raises(EngineUnavailable):
        await incoming.take()
    writer.close()
    del reader


async def test_death_of_the_sender_fails_its_streams(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    task = asyncio.create_task(sender.deliver(items(b"a", 60.0), incoming.address, failure=told))
    assert await incoming.take() == b"a"
    sender.close()
    with pytest.raises(EngineUnavailable):
        await incoming.take()
    task.cancel()


async def test_death_of_the_receiver_stops_the_items(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    answer = items(b"a", 0.05, b"b", 0.05, b"c", 60.0)
    task = asyncio.create_task(sender.deliver(answer, incoming.address, failure=told))
    await incoming.take()
    receiver.close()
    async with asyncio.timeout(30):
        undelivered = await task
    assert undelivered is not None
    assert undelivered.error is EngineUnavailable
    assert inspect.isasyncgen(answer)
    assert not answer.ag_running


async def test_sender_says_so_when_nobody_listens(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    receiver.close()
    undelivered = await sender.deliver(items(b"a"), incoming.address, failure=told)
    assert undelivered is not None
    assert undelivered.error is EngineUnavailable


async def test_sender_connects_again_after_a_lost_connection(
    receiver: Receiver, sender: Sender
) -> None:
    first = opened(receiver)
    await sender.deliver(items(b"a", USAGE), first.address, failure=told)
    assert await taken(first) == (b"a", USAGE)
    for link in list(receiver._links):
        link.abort()
    assert await eventually(lambda: not receiver._links)
    second = opened(receiver)
    await sender.deliver(items(b"b", USAGE), second.address, failure=told)
    assert await taken(second) == (b"b", USAGE)


async def test_closed_stream_takes_nothing_more(receiver: Receiver, sender: Sender) -> None:
    incoming = opened(receiver)
    incoming.close()
    assert await sender.deliver(items(b"a", USAGE), incoming.address, failure=told) is None
    await asyncio.sleep(0.02)
    assert receiver._streams == {}
    assert incoming._deltas == []


async def test_answer_that_is_begun_again_elsewhere_is_not_mixed_with_the_first(
    receiver: Receiver, sender: Sender
) -> None:
    """Ray repeats a call on another replica if the first one dies early enough."""
    incoming = opened(receiver)
    first = asyncio.create_task(sender.deliver(items(b"a", 60.0), incoming.address, failure=told))
    assert await eventually(lambda: incoming._deltas == [b"a"])
    sender.close()
    assert await eventually(lambda: not receiver._links)
    again = Sender()
    await again.deliver(items(b"a", b"b", USAGE), incoming.address, failure=told)
    await asyncio.sleep(0.05)
    assert await incoming.take() == b"a"
    with pytest.raises(EngineUnavailable):
        await incoming.take()
    again.close()
    first.cancel()


async def test_sender_waits_for_a_receiver_that_is_full(
    receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.delivery.sender.DRAIN_DEADLINE_S", 0.05)
    incoming = opened(receiver)
    await sender.deliver(items(b"a"), incoming.address, failure=told)
    await incoming.take()
    for link in receiver._links:
        link._transport.pause_reading()
    flood = items(*[bytes(2**20)] * 64)
    undelivered = await sender.deliver(flood, incoming.address, failure=told)
    assert undelivered is not None
    assert undelivered.error is EngineUnavailable


def test_silence_after_an_item_has_a_deadline_of_its_own_that_each_item_renews() -> None:
    async def stalled() -> float:
        address = Address("127.0.0.1", 1, bytes(32), 1)
        incoming = Incoming(address, first_timeout_s=300, stall_timeout_s=60, forget=lambda _: None)
        for _ in range(3):
            await asyncio.sleep(50)
            incoming.put(FrameKind.DELTA, b"a")
            assert await incoming.take() == b"a"
        with pytest.raises(EngineTimeout, match="60 s"):
            await incoming.take()
        return virtual_time.now()

    assert virtual_time.run(stalled()) == 3 * 50 + 60
