"""The protocol between parser processes and their owner: JSON with a four-byte length prefix."""

from __future__ import annotations

import asyncio
from typing import IO, Any

import orjson

_LENGTH_BYTES = 4


def encoded(value: Any) -> bytes:
    """Encode a value as a frame."""
    body = orjson.dumps(value)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def read(stream: IO[bytes]) -> Any | None:
    """Read the next value; None if the other side has closed."""
    head = stream.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    return orjson.loads(stream.read(int.from_bytes(head, "big")))


async def received(stream: asyncio.StreamReader) -> Any:
    """Read the next value.

    Raises:
        asyncio.IncompleteReadError: the other side has closed.
    """
    head = await stream.readexactly(_LENGTH_BYTES)
    return orjson.loads(await stream.readexactly(int.from_bytes(head, "big")))
