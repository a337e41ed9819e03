"""An answer with its sources: they go into its stream, right after its first event.

Knows the events of a chat, not where passages come from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson

from models.engine import Delta

_END = b"\n\n"
_DATA = b"data: "


async def cited(
    deltas: AsyncIterator[Delta], sources: dict[str, Any], *, choices: int
) -> AsyncGenerator[Delta, None]:
    """The deltas of a chat; each choice is told its sources before the answer goes on.

    Args:
        deltas: whole events each; the first one is a chunk.
        sources: what is added to a message, such as `annotations`.
        choices: of the answer.
    """
    waiting = True
    async for delta in deltas:
        if waiting and delta.startswith(_DATA):
            waiting = False
            first, _, rest = delta.partition(_END)
            yield first + _END + _told(first, sources, choices) + rest
        else:
            yield delta


def _told(first: bytes, sources: dict[str, Any], choices: int) -> bytes:
    """An event of the same answer as `first`, which tells the sources."""
    chunk = orjson.loads(first.removeprefix(_DATA))
    head = {name: chunk[name] for name in ("id", "object", "created", "model")}
    told = [
        {"index": index, "delta": sources, "logprobs": None, "finish_reason": None}
        for index in range(choices)
    ]
    return _DATA + orjson.dumps(head | {"choices": told}) + _END
