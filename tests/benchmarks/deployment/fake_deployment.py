"""A fake OpenAI-compatible deployment that answers at a known pace, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

HOST = "127.0.0.1"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass
class FakeDeployment:
    """The behaviour of the deployment, and the requests it received.

    `refuse` answers the n-th chat (from 0) with a status and a message; `tokens` replaces the
    length that was asked for.
    """

    first_delta_s: float = 0.0
    gap_s: float = 0.0
    models: tuple[dict[str, Any], ...] = ({"id": "m"},)
    key: str = ""
    tokens: int | None = None
    refuse: dict[int, tuple[int, str]] = field(default_factory=dict)
    refuse_all: tuple[int, str] | None = None
    tls: ssl.SSLContext | None = None
    port: int = 0
    chats: list[dict[str, Any]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    under_way: int = 0
    most_under_way: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.paths.add(head.split(b" ", 2)[1].decode())
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        allowed = not self.key or f"bearer {self.key}".encode() in head.lower()
        await self._answer(writer, body, allowed=allowed)

    async def _answer(self, writer: asyncio.StreamWriter, body: bytes, *, allowed: bool) -> None:
        if not allowed:
            writer.write(_whole(401, _error(f"Not {self.key or 'a key'}.")))
        elif not body:
            writer.write(_whole(200, {"object": "list", "data": list(self.models)}))
        else:
            chat = orjson.loads(body)
            self.chats.append(chat)
            refusal = self.refuse.get(len(self.chats) - 1, self.refuse_all)
            if refusal:
                writer.write(_whole(refusal[0], _error(refusal[1])))
            else:
                await self._stream(writer, self.tokens or chat["max_tokens"])
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, tokens: int) -> None:
        """Write status and first delta together, as Ringfence does."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._answer_slowly(writer, tokens)
        finally:
            self.under_way -= 1

    async def _answer_slowly(self, writer: asyncio.StreamWriter, tokens: int) -> None:
        await asyncio.sleep(self.first_delta_s)
        writer.write(_STREAM)
        for index in range(tokens):
            if index:
                await asyncio.sleep(self.gap_s)
            writer.write(_event({"choices": [{"index": 0, "delta": {"content": "a"}}]}))
        writer.write(_event({"choices": [], "usage": {"completion_tokens": tokens}}))
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": None}}


def _whole(status: int, document: dict[str, Any]) -> bytes:
    body = orjson.dumps(document)
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _event(fields: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + orjson.dumps(fields) + b"\n\n")


def _chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


@contextlib.contextmanager
def deployed(**fields: Any) -> Iterator[FakeDeployment]:
    """Run a fake deployment on loopback during the block."""
    fake = FakeDeployment(**fields)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(fake.serve, HOST, 0, ssl=fake.tls)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # For the transports to close.

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
