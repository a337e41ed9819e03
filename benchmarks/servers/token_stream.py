"""An OpenAI-compatible server without a model, in raw asyncio with prepared frames.

The arguments are port, ms per step (0 for no pause), and ms per step and open stream. A chat gets
`max_tokens` tokens in vLLM's frames, at the shared steps of all open streams (`steps`), or one
object after as many steps if unstreamed. `GET /v1/models` lists the model; any other GET returns
200. No key is checked.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import orjson

from benchmarks.running.arms import HOST
from benchmarks.servers import frames
from benchmarks.servers.steps import Pace, StepClock

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def _json(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_TOKENS = tuple(map(_chunk, frames.TOKENS))
_OK = _json(b"{}")
_MODELS = _json(b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % frames.MODEL.encode())


@cache
def _ending(tokens: int, *, usage: bool) -> bytes:
    """Return everything after the last token but one."""
    pieces = [frames.LAST_TOKEN, *([frames.usage_frame(tokens)] if usage else []), frames.DONE]
    return b"".join(map(_chunk, pieces)) + b"0\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One kept-alive connection: one request at a time, with a sized or chunked body."""

    def __init__(self, steps: StepClock) -> None:
        self._steps = steps
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._member: Callable[[], bool] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._member is not None:
            self._steps.leave(self._member)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def _take(self) -> None:
        if self._member is not None or (request := take_request(self._buffer)) is None:
            return
        head, body = request
        if _CONTINUE.search(head) and not body:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif not head.startswith(b"POST"):
            self._write(_MODELS if head.startswith(b"GET /v1/models ") else _OK)
        else:
            self._answer(orjson.loads(body))
        self._take()

    def _answer(self, asked: dict[str, object]) -> None:
        tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or 1
        if not isinstance(tokens, int):
            raise TypeError(f"max_tokens {tokens!r}")
        if asked.get("stream"):
            options = asked.get("stream_options")
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            self._write(_STREAM_HEAD + _chunk(frames.ROLE))
            self._begin(tokens, each=_TOKENS, last=_ending(tokens, usage=usage))
        else:
            self._begin(tokens, each=(b"",), last=_json(frames.whole(tokens)))

    def _begin(self, tokens: int, *, each: Sequence[bytes], last: bytes) -> None:
        """Write one of `each` at every step before the last, and `last` at the last step."""
        left = tokens

        def step() -> bool:
            nonlocal left
            if self._paused:
                return True
            left -= 1
            if left:
                self._write(each[left % len(each)])
                return True
            self._write(last)
            self._member = None
            self._take()
            return False

        self._member = step
        self._steps.join(step)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)


def take_request(buffer: bytearray) -> tuple[bytes, bytes] | None:
    """Remove the first request from `buffer`, and return head and body; None if it is incomplete.

    The body may be sized or chunked (RFC 9112, section 7.1, without trailers).
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = bytes(buffer[:end]), end + 4
    if _CHUNKED.search(head):
        return _take_chunked(buffer, head, start)
    length = _LENGTH.search(head)
    stop = start + (int(length[1]) if length else 0)
    if len(buffer) < stop:
        return None
    body = bytes(buffer[start:stop])
    del buffer[:stop]
    return head, body


def _take_chunked(buffer: bytearray, head: bytes, start: int) -> tuple[bytes, bytes] | None:
    body = bytearray()
    while (end := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:end]).partition(b";")[0], 16)
        stop = end + 2 + size + 2
        if len(buffer) < stop:
            return None
        if not size:
            del buffer[:stop]
            return head, bytes(body)
        body += buffer[end + 2 : stop - 2]
        start = stop
    return None


async def _main() -> None:
    port, *pace = sys.argv[1:]
    steps = StepClock(Pace(*map(float, pace)))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(steps), HOST, int(port), backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
