"""ASGI messages of an answer as the bytes of a record: one line of status and headers, the body."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from starlette.types import Message

from serving.idempotency.store import Replay

Messages = AsyncGenerator[Message, None]

_REPLAYED = (b"idempotent-replayed", b"true")


async def replayed(replay: Replay) -> Messages:
    """The messages of a recorded answer. Event streams come as they are recorded.

    Any other answer comes when it is whole, so that one which is lost can be begun anew. Raises
    as `Replay.read` does.
    """
    async with aclosing(replay.read()) as pieces:
        raw = b""
        while b"\n" not in raw:
            raw += await anext(pieces)
        line, _, body = raw.partition(b"\n")
        start = _start_of(line)
        if not is_event_stream(start):
            body += b"".join([piece async for piece in pieces])
        yield start
        yield body_message(body, more=True)
        async for piece in pieces:
            yield body_message(piece, more=True)
        yield body_message(b"", more=False)


def head_line(start: Message) -> bytes:
    """Status and headers, which the bytes of the body follow.

    Headers of the request rather than of its answer are among them; the boundary sets them anew.
    """
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return orjson.dumps([start["status"], pairs]) + b"\n"


def body_message(body: bytes, *, more: bool) -> Message:
    """A part of an answer's body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def is_last(message: Message) -> bool:
    """Whether an answer ends with this message."""
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def is_event_stream(start: Message) -> bool:
    """Whether an answer that begins so can tell an error when it has begun."""
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start["headers"]
    )


def _start_of(line: bytes) -> Message:
    status, pairs = orjson.loads(line)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return {"type": "http.response.start", "status": status, "headers": [*headers, _REPLAYED]}
