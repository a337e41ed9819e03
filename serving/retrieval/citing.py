"""An answer with its sources: they go into its stream, right after its first event.

Knows the events of a chat, not where passages come from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from models.engine import Delta
from models.openai_stream import DATA, EVENT_END, chat_choice, chunks, event, head_of


async def cited(
    deltas: AsyncIterator[Delta], sources: dict[str, Any], *, choices: int
) -> AsyncGenerator[Delta, None]:
    """Return the deltas of a chat; the sources of each choice come before the rest of its answer.

    Args:
        deltas: whole events each; the first one is a chunk.
        sources: what is added to a message, such as `annotations`.
        choices: of the answer.
    """
    waiting = True
    async for delta in deltas:
        if waiting and delta.startswith(DATA):
            waiting = False
            first, end, rest = delta.partition(EVENT_END)
            yield first + end + _told(first, sources, choices) + rest
        else:
            yield delta


def _told(first: bytes, sources: dict[str, Any], choices: int) -> Delta:
    """An event of the same answer as `first`, which tells the sources."""
    told = [chat_choice(index, sources) for index in range(choices)]
    return event(head_of(next(chunks(first))) | {"choices": told})
