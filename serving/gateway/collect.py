"""Collects a stream into one answer, so that streamed and unstreamed answers are the same."""

from __future__ import annotations

from typing import Any

from models.engine import Delta
from models.openai_stream import Chunk, chunks, head_of

_TEXT_LOGPROBS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
_SOURCES = {"annotations", "file_search_call"}


class Collector:
    """Adds up chat or completion chunks."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None

    def add(self, delta: Delta) -> None:
        """Take one or more whole events."""
        for chunk in chunks(delta):
            self._chunk(chunk)

    def answer(self) -> dict[str, Any]:
        """The whole answer, choices in the order of their index."""
        chat = self._head["object"] == "chat.completion.chunk"
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {
            **self._head,
            "object": "chat.completion" if chat else "text_completion",
            "choices": [_finish_chat(choice) for choice in choices] if chat else choices,
            "usage": self._usage,
        }

    def _chunk(self, chunk: Chunk) -> None:
        if not self._head:
            self._head = head_of(chunk)
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for part in chunk["choices"]:
            if "delta" in part:
                _add_chat(self._choices, part)
            else:
                _add_text(self._choices, part)


def _add_chat(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    choice = choices.setdefault(
        part["index"],
        {"index": part["index"], "message": {}, "logprobs": None, "finish_reason": None},
    )
    message, delta = choice["message"], part["delta"]
    if role := delta.get("role"):
        message["role"] = role
    for field in ("content", "reasoning", "reasoning_content", "refusal"):
        if delta.get(field) is not None:
            message[field] = message.get(field, "") + delta[field]
    for source in _SOURCES & delta.keys():
        message[source] = delta[source]
    for call in delta.get("tool_calls") or ():
        _add_tool_call(message.setdefault("tool_calls", []), call)
    if logprobs := part.get("logprobs"):
        so_far = choice["logprobs"] or {"content": [], "refusal": None}
        so_far["content"] += logprobs.get("content") or []
        choice["logprobs"] = so_far
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]


def _add_tool_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    while len(calls) <= part["index"]:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[part["index"]]
    call["id"] = part.get("id") or call["id"]
    function = part.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _finish_chat(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    message.setdefault("role", "assistant")
    message.setdefault("refusal", None)
    if message.get("tool_calls"):
        message["content"] = message.get("content") or None
    else:
        message.setdefault("content", "")
    return choice


def _add_text(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    choice = choices.setdefault(
        part["index"],
        {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None},
    )
    choice["text"] += part.get("text") or ""
    if logprobs := part.get("logprobs"):
        so_far = choice["logprobs"] or {name: [] for name in _TEXT_LOGPROBS}
        for name in _TEXT_LOGPROBS:
            so_far[name] += logprobs.get(name) or []
        choice["logprobs"] = so_far
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
