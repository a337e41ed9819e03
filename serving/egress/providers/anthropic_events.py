"""Converts Anthropic's streamed events into OpenAI's chunks, and checks that all are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from models.engine import Usage
from models.openai_stream import Chunk
from serving.egress.providers.provider import ProviderBroken
from serving.egress.providers.tool_names import ToolNames

ENDS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "length",
}
"""`pause_turn` is an answer that could go on, as one cut off by its length is."""

_WHOLE = ("end_turn", "tool_use")
"""Ends that a model chooses itself: its last tool call is complete. Other ends may cut it short."""

_KNOWN = (
    "message_start", "message_delta", "content_block_start", "content_block_delta",
    "content_block_stop",
)  # fmt: skip
_IGNORED_DELTAS = ("signature_delta", "citations_delta")


class MessageAnswer:
    """An answer, from its events. Events and blocks of unknown types are skipped.

    Args:
        head: what each chunk begins with.
        tools: how the request's tools are called there.
    """

    def __init__(self, head: Chunk, tools: ToolNames) -> None:
        self._head = head
        self._tools = tools
        self._calls: dict[int, int] = {}  # Blocks that are tool calls, with their number.
        self._unfilled: set[int] = set()  # Those of them without arguments so far.
        self._used: dict[str, int] = {}
        self._ended = False

    def chunks(self, event: Mapping[str, Any]) -> list[Chunk]:
        """The chunks, mostly one or none, that an event stands for.

        Raises:
            ProviderBroken: the event is not what Anthropic's API sends.
        """
        match event:
            case {"type": "message_start", "message": {"usage": dict(usage)}}:
                self._count(usage)
                return [self._chunk({"role": "assistant", "content": ""})]
            case {"type": "content_block_start", "index": int(at), "content_block": dict(block)}:
                return self._filled() + self._begun(at, block)
            case {"type": "content_block_delta", "index": int(at), "delta": dict(delta)}:
                return self._grown(at, delta)
            case {"type": "content_block_stop", "index": int()}:
                return []  # Sent for a call that was cut short as well.
            case {"type": "message_delta", "delta": dict(delta), "usage": dict(usage)}:
                self._count(usage)
                return self._stopped(delta)
            case {"type": str(kind)} if kind not in _KNOWN:
                return []
        raise _malformed()

    def usage(self) -> Usage:
        """Return the usage of the answer, after its last event.

        Raises:
            ProviderBroken: it is not whole, or does not tell.
        """
        if not self._ended:
            raise ProviderBroken("the answer was cut short", code="cut")
        used = self._used
        if "input_tokens" not in used or "output_tokens" not in used:
            raise ProviderBroken("the answer does not tell its usage", code="no_usage")
        cached = used.get("cache_read_input_tokens", 0)
        prompt = used["input_tokens"] + cached + used.get("cache_creation_input_tokens", 0)
        return Usage(prompt, used["output_tokens"], cached)

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]}

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Take the latest count: each is of the whole answer so far."""
        for name, value in usage.items():
            if not name.endswith("_tokens") or value is None:
                continue
            if not isinstance(value, int) or not 0 <= value < 2**31:
                raise _malformed()
            self._used[name] = value

    def _begun(self, at: int, block: Mapping[str, Any]) -> list[Chunk]:
        match block:
            case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
                return self._call(at, call_id, name, block.get("input"))
            case {"type": "text", "text": str(text)}:
                return [self._chunk({"content": text})] if text else []
            case {"type": "thinking", "thinking": str(text)}:
                return [self._chunk({"reasoning_content": text})] if text else []
            case {"type": "tool_use" | "text"}:
                raise _malformed()
        return []

    def _call(self, at: int, call_id: str, name: str, given: object) -> list[Chunk]:
        number = self._calls.setdefault(at, len(self._calls))
        arguments = orjson.dumps(given).decode() if given else ""
        if not arguments:
            self._unfilled.add(at)
        function = {"name": self._tools.here(name), "arguments": arguments}
        call = {"index": number, "id": call_id, "type": "function", "function": function}
        return [self._chunk({"tool_calls": [call]})]

    def _grown(self, at: int, delta: Mapping[str, Any]) -> list[Chunk]:
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                return [self._chunk({"content": text})]
            case {"type": "thinking_delta", "thinking": str(text)}:
                return [self._chunk({"reasoning_content": text})]
            case {"type": "input_json_delta", "partial_json": str(text)}:
                return self._arguments(at, text) if text else []
            case {"type": kind} if kind in _IGNORED_DELTAS:
                return []
        raise _malformed()

    def _arguments(self, at: int, text: str) -> list[Chunk]:
        if at not in self._calls:
            return []  # Of a tool that the provider runs itself.
        self._unfilled.discard(at)
        call = {"index": self._calls[at], "function": {"arguments": text}}
        return [self._chunk({"tool_calls": [call]})]

    def _filled(self) -> list[Chunk]:
        """Complete calls without arguments have no text: OpenAI's have an empty object."""
        return [chunk for at in sorted(self._unfilled) for chunk in self._arguments(at, "{}")]

    def _stopped(self, delta: Mapping[str, Any]) -> list[Chunk]:
        reason = delta.get("stop_reason")
        if reason is None:
            return []
        if not isinstance(reason, str) or reason not in ENDS:
            raise ProviderBroken("the answer ended for no known reason", code="finish_reason")
        self._ended = True
        filled = self._filled() if reason in _WHOLE else []
        return [*filled, self._chunk({}, ENDS[reason])]


def _malformed() -> ProviderBroken:
    return ProviderBroken("an event of the answer is malformed", code="malformed")
