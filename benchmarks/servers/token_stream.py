"""An OpenAI-shaped server that only streams: raw asyncio, each answer made before it is asked for.

Argument: port. Each request gets `max_tokens` chunks of vLLM's size, then usage and `[DONE]`; any
GET is answered 200. It makes nothing up as it goes, so what it feeds is limited by the socket.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import cache

import orjson

from benchmarks.arms import HOST

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(rb'"max_tokens":(\d+)')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def _frame(fields: dict[str, object]) -> bytes:
    common = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "none"}
    return b"data: " + orjson.dumps(common | fields) + b"\n\n"


def _chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


@cache
def _token() -> bytes:
    choice = {"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}
    return _chunk(_frame({"choices": [choice | {"token_ids": None}]}))


def _ending(tokens: int) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    return _chunk(_frame({"choices": [], "usage": usage}) + b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection until the client closes it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if length := _LENGTH.search(head):
                await _stream(writer, await reader.readexactly(int(length[1])))
            else:
                writer.write(_OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _stream(writer: asyncio.StreamWriter, body: bytes) -> None:
    asked = _MAX_TOKENS.search(body)
    tokens = int(asked[1]) if asked else 1
    writer.write(_STREAM_HEAD)
    for _ in range(tokens):
        writer.write(_token())
        # One write for each token and a turn of the loop after it, as a real server has.
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(_ending(tokens))


async def _main() -> None:
    server = await asyncio.start_server(_serve, HOST, int(sys.argv[1]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
