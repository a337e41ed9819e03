"""Forced tool calls in plain JSON, read a piece at a time: what a grammar has the model write."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from models.vllm.tool_calls import ToolCallPiece

_CALL = 2
"""How deep the members of a call are: in an object in the array."""


class NamedCall:
    """Reads the arguments of a function that must be called, which are all that is written."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def read(self, text: str) -> Iterator[ToolCallPiece]:
        """The piece of the call that `text` is."""
        arguments = text if self._begun else text.lstrip()
        if arguments:
            self._begun = True
            yield ToolCallPiece(0, name=self._name, arguments=arguments)


class RequiredCalls:
    """Reads `[{"name": "...", "parameters": {...}}, ...]`."""

    def __init__(self) -> None:
        self._number = -1
        self._depth = 0
        self._string: str | None = None
        self._escaped = False
        self._key = ""
        self._in_value = False

    def read(self, text: str) -> Iterator[ToolCallPiece]:
        """Pieces of the calls that `text` goes on with: arguments are as they are written."""
        arguments = ""
        for char in text:
            before = self._in_arguments
            name = self._take(char)
            if before and self._in_arguments and not self._is_layout(char):
                arguments += char
            elif arguments:
                yield ToolCallPiece(self._number, arguments=arguments)
                arguments = ""
            if name is not None:
                yield ToolCallPiece(self._number, name=name)
        if arguments:
            yield ToolCallPiece(self._number, arguments=arguments)

    @property
    def _in_arguments(self) -> bool:
        return self._depth >= _CALL and self._in_value and self._key == "parameters"

    def _is_layout(self, char: str) -> bool:
        return self._depth == _CALL and self._string is None and char.isspace()

    def _take(self, char: str) -> str | None:
        """Follow one character; returns the name of a call that it completes."""
        if self._string is not None:
            return self._take_in_string(char)
        if char == '"':
            self._string = ""
        elif char in "[{":
            self._depth += 1
            if self._depth == _CALL:
                self._number += 1
                self._key, self._in_value = "", False
        elif char in "]}":
            self._depth -= 1
        elif self._depth == _CALL and char in ":,":
            self._in_value = char == ":"
        return None

    def _take_in_string(self, char: str) -> str | None:
        string = self._string or ""
        if char != '"' or self._escaped:
            self._escaped = char == "\\" and not self._escaped
            self._string = string + char
            return None
        self._string = None
        if self._depth == _CALL and not self._in_value:
            self._key = string
        elif self._depth == _CALL and self._key == "name":
            return str(orjson.loads(f'"{string}"'))
        return None
