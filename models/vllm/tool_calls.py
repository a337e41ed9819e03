"""Tool calls of one answer as its stream tells them. Knows nothing of who finds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

EMPTY = "{}"

CallDelta = dict[str, Any]
"""An item of `tool_calls` in a streamed delta."""


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """What a parser read of one call. `number` is the parser's own and need not begin at 0."""

    number: int
    id: str | None = None
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Call:
    index: int
    id: str
    name: str = ""
    arguments: str = ""
    opened: bool = False


class ToolCalls:
    """Turns pieces into deltas of OpenAI's form, and remembers what they said.

    A call opens with its id, its whole name and the arguments `""`. After that come arguments
    only. A call that another one follows, or that ended without arguments, has the arguments `{}`.

    Args:
        only_first: leave out all calls but the first, as `parallel_tool_calls: false` asks for.
    """

    def __init__(self, *, only_first: bool = False) -> None:
        self._only_first = only_first
        self._calls: dict[int, _Call] = {}

    @property
    def begun(self) -> bool:
        """Whether a call has been told."""
        return any(call.opened for call in self._calls.values())

    @property
    def whole(self) -> bool:
        """Whether there are calls, and each has a JSON object for its arguments."""
        return self.begun and all(_is_object(call.arguments) for call in self._calls.values())

    def grow(self, pieces: Iterable[ToolCallPiece]) -> list[CallDelta]:
        """Deltas for what was read, in order."""
        return [delta for piece in pieces for delta in self._grow(piece)]

    def complete(self, found: Sequence[ToolCallPiece]) -> list[CallDelta]:
        """Deltas for what the whole text has and its pieces had not.

        Args:
            found: the calls of the whole text, in order; nothing that was told is taken back.
        """
        if not self.begun:
            return self.grow(found)
        deltas = []
        for call, piece in zip(self._calls.values(), found, strict=False):
            goes_on = piece.arguments.startswith(call.arguments)
            if call.opened and call.name == piece.name and goes_on:
                deltas += self._argue(call, piece.arguments[len(call.arguments) :])
        return deltas

    def _grow(self, piece: ToolCallPiece) -> list[CallDelta]:
        call = self._calls.get(piece.number)
        if call is None:
            if self._only_first and self._calls:
                return []
            call = _Call(len(self._calls), piece.id or f"chatcmpl-tool-{uuid4().hex}")
            self._calls[piece.number] = call
        if call.opened:
            return self._argue(call, piece.arguments)
        call.name += piece.name
        if not call.name:
            return []
        return [*self._close_others(), self._open(call), *self._argue(call, piece.arguments)]

    def _close_others(self) -> list[CallDelta]:
        """The parser went on, so earlier calls are complete: some parsers swallow `{}`."""
        earlier = [call for call in self._calls.values() if call.opened and not call.arguments]
        return [delta for call in earlier for delta in self._argue(call, EMPTY)]

    def _open(self, call: _Call) -> CallDelta:
        call.opened = True
        function = {"name": call.name, "arguments": ""}
        return {"index": call.index, "id": call.id, "type": "function", "function": function}

    def _argue(self, call: _Call, text: str) -> list[CallDelta]:
        call.arguments += text
        return [{"index": call.index, "function": {"arguments": text}}] if text else []


def _is_object(text: str) -> bool:
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict)
