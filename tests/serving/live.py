"""The application behind the server that Ray Serve uses, and a client on a raw socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import orjson
import uvicorn
from starlette.types import ASGIApp

WAIT_S = 30.0
"""Time-out for what must come. Only a failing test waits so long."""


@asynccontextmanager
async def listening(
    app: ASGIApp, *, http: Literal["h11", "httptools"] = "httptools"
) -> AsyncIterator[int]:
    """Serve `app` on a free loopback port, in this event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, log_level=None, access_log=False, http=http,
            ws="none",
        )  # fmt: skip
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await running


class Connection:
    """One TCP connection that sends and receives plain bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received = b""

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def post(self, path: str, body: dict[str, Any], *, key: str) -> None:
        raw = orjson.dumps(body)
        await self.send(head(path, key=key, fields={"Content-Length": str(len(raw))}) + raw)

    async def until(self, mark: bytes, *, times: int = 1) -> bytes:
        """Return everything received, once it contains `mark` that many times."""
        async with asyncio.timeout(WAIT_S):
            while self.received.count(mark) < times:
                piece = await self._reader.read(65536)
                if not piece:
                    raise EOFError(self.received)
                self.received += piece
        return self.received

    async def rest(self) -> bytes:
        """Return everything received until the server closes the connection."""
        async with asyncio.timeout(WAIT_S):
            with suppress(ConnectionResetError):
                while piece := await self._reader.read(65536):
                    self.received += piece
        return self.received

    def hang_up(self, *, abruptly: bool) -> None:
        if abruptly:
            self._writer.transport.abort()
        else:
            self._writer.close()


def head(path: str, *, key: str, fields: dict[str, str] | None = None) -> bytes:
    """Build request line and headers of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: ringfence", f"Authorization: Bearer {key}"]
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def dechunked(raw: bytes) -> bytes:
    """Return the body of a chunked response (RFC 9112, 7.1); ValueError if it is cut short."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while True:
        size_line, found, rest = rest.partition(b"\r\n")
        if not found:
            raise ValueError("the body ends without its last chunk")
        size = int(size_line, 16)
        if size == 0:
            return body
        body, rest = body + rest[:size], rest[size + 2 :]


async def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until `condition` is true; False if it is not after `WAIT_S`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
