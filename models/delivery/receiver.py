"""The receiving end of deliveries: one listening port of a process, for all of its streams."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import ssl
from collections.abc import Callable
from itertools import count
from typing import cast

from models.delivery import frames
from models.delivery.frames import (
    LOST,
    TOKEN_BYTES,
    Address,
    FrameKind,
    FrameParser,
    MalformedFrame,
)
from models.engine import (
    Delta,
    EngineError,
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    ReaderTooSlow,
    Usage,
)

GREETING_DEADLINE_S = 5.0
ARRIVAL_DEADLINE_S = 5.0

MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""The most of one stream that waits to be taken. All streams of a sender share a connection, so one
that is not read ends, in place of holding up the others."""


class Incoming:
    """The receiving end of one stream: items that have arrived and were not taken yet.

    Args:
        address: the address to give to the sender.
        first_timeout_s: seconds to wait for the first item.
        stall_timeout_s: seconds to wait for each further item.
        forget: called with the stream's number when the stream is closed.
    """

    def __init__(
        self,
        address: Address,
        *,
        first_timeout_s: float,
        stall_timeout_s: float,
        forget: Callable[[int], object],
    ) -> None:
        self.address = address
        self.on_overrun: Callable[[], object] = _nothing
        """Called when too much waits to be taken, so that the sender can be stopped."""
        self.link: object | None = None
        self._loop = asyncio.get_running_loop()
        self._deltas: list[Delta] = []
        self._unread_bytes = 0
        self._end: Usage | EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._forget = forget
        self._limit_s = first_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._heard = self._loop.time()
        self._alarm = self._loop.call_later(first_timeout_s, self._check_silence)

    def put(self, kind: int, payload: bytes) -> None:
        """Add the next item from the connection.

        Items after the end are dropped: if a replica dies, Ray may repeat the call on another one,
        whose answer would follow that of the first.
        """
        if self._end is not None:
            return
        self._heard = self._loop.time()
        if self._limit_s != self._stall_timeout_s:
            self._limit_s = self._stall_timeout_s
            self._set_alarm(self._limit_s)
        if kind == FrameKind.DELTA:
            self._add(payload)
        elif kind == FrameKind.USAGE:
            self.end(frames.usage(payload))
        else:
            self.end(frames.failure(payload).exception())

    def _add(self, delta: Delta) -> None:
        if self._deltas and self._unread_bytes + len(delta) > MAX_UNREAD_BYTES:
            self.end(ReaderTooSlow())
            self.on_overrun()
            return
        self._deltas.append(delta)
        self._unread_bytes += len(delta)
        self._wake()

    def end(self, end: Usage | EngineError) -> None:
        """End the stream after the items that have arrived; later calls have no effect."""
        if self._end is None:
            self._end = end
            self._wake()

    def last_call(self) -> None:
        """Limit the wait for the remaining items, because the sender has sent everything."""
        if self._end is not None:
            return
        self._heard = self._loop.time()
        self._limit_s = self._stall_timeout_s = ARRIVAL_DEADLINE_S
        self._set_alarm(ARRIVAL_DEADLINE_S)

    async def take(self) -> Delta | Usage:
        """Return everything that has arrived as one delta; return the usage record at the end.

        Raises:
            EngineError: the failure that ended the stream.
        """
        while not self._deltas and self._end is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._deltas:
            taken = self._deltas[0] if len(self._deltas) == 1 else b"".join(self._deltas)
            self._deltas.clear()
            self._unread_bytes = 0
            return taken
        if isinstance(self._end, Usage):
            return self._end
        raise self._end or EngineFailed("The answer ended without a usage record.")

    def close(self) -> None:
        """Close the stream; items that still arrive are dropped."""
        self._alarm.cancel()
        self._forget(self.address.stream)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self, seconds: float) -> None:
        self._alarm.cancel()
        self._alarm = self._loop.call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        # One timer that is rescheduled when it fires, instead of one per item.
        left_s = self._heard + self._limit_s - self._loop.time()
        if left_s > 0:
            self._alarm = self._loop.call_later(left_s, self._check_silence)
        else:
            self.end(EngineTimeout(f"The model sent nothing for {self._limit_s:g} s."))


def _nothing() -> None:
    pass


class Receiver:
    """The destination of deliveries: one listening port of this process for all of its streams."""

    def __init__(self) -> None:
        self._streams: dict[int, Incoming] = {}
        self._numbers = count(1)
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._host = ""
        self._port = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    async def listen(self, host: str, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of `host`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), host, 0, ssl=tls)
        self._host, self._port = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Stop listening, and drop every connection."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.abort()

    def open(self, *, first_timeout_s: float, stall_timeout_s: float) -> Incoming:
        """Open a stream; the caller must close it."""
        number = next(self._numbers)
        self._streams[number] = stream = Incoming(
            Address(self._host, self._port, self._token, number),
            first_timeout_s=first_timeout_s,
            stall_timeout_s=stall_timeout_s,
            forget=lambda number: self._streams.pop(number, None),
        )
        return stream

    def knows(self, token: bytes) -> bool:
        """Whether `token` is this receiver's."""
        return hmac.compare_digest(token, self._token)

    def take(self, link: object, number: int, kind: int, payload: bytes) -> None:
        """Pass a frame to its stream; frames of closed streams are dropped."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.link = link
            stream.put(kind, payload)

    def opened(self, link: _Link) -> None:
        """Register a connection."""
        self._links.add(link)

    def lost(self, link: _Link) -> None:
        """Fail every stream that used `link`."""
        self._links.discard(link)
        for stream in list(self._streams.values()):
            if stream.link is link:
                stream.end(EngineUnavailable(LOST))


class _Link(asyncio.Protocol):
    """The connection of one engine."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._frames = FrameParser()
        self._greeting: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass.
        self._receiver.opened(self)
        loop = asyncio.get_running_loop()
        self._doubt = loop.call_later(GREETING_DEADLINE_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature.
        self._doubt.cancel()
        self._receiver.lost(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._greeting is not None:
            data = self._greet(self._greeting + data)
        try:
            for stream, kind, payload in self._frames.feed(data):
                self._receiver.take(self, stream, kind, payload)
        except MalformedFrame:
            self._transport.abort()

    def _greet(self, data: bytes) -> bytes:
        """Check the token; returns the bytes after it, none if it is incomplete or wrong."""
        if len(data) < TOKEN_BYTES:
            self._greeting = data
            return b""
        if not self._receiver.knows(data[:TOKEN_BYTES]):
            self._transport.abort()
            return b""
        self._greeting = None
        self._doubt.cancel()
        return data[TOKEN_BYTES:]
