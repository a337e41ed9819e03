"""Stand-ins of providers: servers on loopback that speak the wire format, and break it.

Raw sockets, so that every byte and every pause is the test's. One behaviour for each request, the
last one again and again; what arrived is kept to the byte.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson

LIFETIME_S = 60.0
"""Maximum seconds for which a connection is served, whatever a test forgets."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; `target` is the path with its query, and header names are lower-
    case."""

    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Endless:
    """Bytes that are sent until the client disconnects."""

    piece: bytes
    pause_s: float = 0.0


Step = bytes | float | Endless | Literal["hang", "reset"]
"""Bytes to send, seconds to wait, a wait for the client to disconnect, or a TCP reset."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour after a request. Without `keep`, the connection is closed at the end."""

    steps: tuple[Step, ...]
    keep: bool = False


Script = Behaviour | Callable[[Received], Behaviour]


class StandIn:
    """A server with a script. A scope: it listens inside.

    Attributes:
        received: every request whose body arrived whole, in order.
        connections: how many were opened so far.
        open: how many are open now.
        hang_ups: how often a client went away before the behaviour was at its end.
    """

    def __init__(self, *script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script)
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self.hang_ups = 0
        self._tls = tls
        self._served = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[bytes]:
        return [one.body for one in self.received]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        try:
            async with asyncio.timeout(LIFETIME_S):
                while await self._serve(reader, writer):
                    pass
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request and its behaviour; return whether the connection stays open."""
        received = await _read(reader)
        self.received.append(received)
        script = self.script[min(self._served, len(self.script) - 1)]
        self._served += 1
        behaviour = script if isinstance(script, Behaviour) else script(received)
        try:
            for step in behaviour.steps:
                await self._step(step, reader, writer)
        except ConnectionError:
            self.hang_ups += 1
            raise
        return behaviour.keep

    async def _step(
        self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if step == "reset":
            writer.transport.abort()
        elif step == "hang":
            await _until_gone(reader, None)
        elif isinstance(step, float):
            await _until_gone(reader, step)
        elif isinstance(step, Endless):
            while True:
                await _send(writer, step.piece)
                await _until_gone(reader, step.pause_s)
        elif isinstance(step, bytes):
            await _send(writer, step)


@contextmanager
def standing(*script: Script) -> Iterator[StandIn]:
    """A stand-in on its own event loop, for tests that have none."""
    loop, server = asyncio.new_event_loop(), StandIn(*script)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _send(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(piece)
    await writer.drain()


async def _until_gone(reader: asyncio.StreamReader, seconds: float | None) -> None:
    """Wait, and raise as soon as the client has disconnected."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if not await reader.read(1):
                raise ConnectionResetError


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(request_line.split(" ")[1], headers, body)
