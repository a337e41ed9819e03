"""OpenAI's stream format: server-sent events, the chunks in them, and the usage object.

An engine renders its deltas once. Most of them are then passed on as bytes; only code that changes
an answer, or adds it up, reads them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from models.engine import Delta, Kind, Usage

Chunk = dict[str, Any]
"""A `chat.completion.chunk` or `text_completion`: the JSON object of one event."""

DATA: Final = b"data: "
EVENT_END: Final = b"\n\n"
DONE: Final = b"data: [DONE]\n\n"
"""The event that ends a whole answer."""

_OBJECTS: Final[Mapping[Kind, str]] = {
    "chat": "chat.completion.chunk",
    "completion": "text_completion",
}
WITH_USAGE: Final[Mapping[str, Any]] = {"stream_options": {"include_usage": True}}
"""The fields of a request that ask for a last event with usage."""

_ID_PREFIXES: Final[Mapping[Kind, str]] = {"chat": "chatcmpl", "completion": "cmpl"}


def event(chunk: Chunk) -> Delta:
    """A chunk as a server-sent event."""
    return DATA + orjson.dumps(chunk) + EVENT_END


def framed(document: bytes) -> Delta:
    """A JSON document as a server-sent event."""
    return DATA + document + EVENT_END


def chunks(delta: Delta) -> Iterator[Chunk]:
    """The chunks of a delta in order. Comments between its events are passed over."""
    for one in delta.split(EVENT_END):
        if one.startswith(DATA):
            yield orjson.loads(one[len(DATA) :])


def answer_id(kind: Kind, request_id: str) -> str:
    """The id of the answer to a request."""
    return f"{_ID_PREFIXES[kind]}-{request_id}"


def head(kind: Kind, answer_id: str, *, model: str, created: float) -> Chunk:
    """The fields that begin every chunk of one answer; `created` is Unix time in seconds."""
    return {
        "id": answer_id,
        "object": _OBJECTS[kind],
        "created": int(created),
        "model": model,
    }


def head_of(chunk: Chunk) -> Chunk:
    """The fields that this chunk shares with every other chunk of its answer."""
    return {name: chunk[name] for name in ("id", "object", "created", "model")}


def chat_choice(index: int, delta: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A choice of a chat's chunk; `fields` replace the null `logprobs` and `finish_reason`."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | fields


def usage_chunk(head: Chunk, usage: Usage, details: Mapping[str, Any] | None = None) -> Chunk:
    """The last chunk of an answer: its usage, and no choices.

    Args:
        head: the fields that every chunk begins with.
        usage: the counts.
        details: a usage object whose other fields, such as reasoning tokens, are kept.
    """
    return head | {"choices": [], "usage": {**(details or {}), **usage_object(usage)}}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as OpenAI's API reports it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_of(record: Mapping[str, Any]) -> Usage:
    """The counts of an OpenAI usage object. A server that caches nothing may leave them null."""
    details = record.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or 0
    return Usage(record["prompt_tokens"], record["completion_tokens"], cached)


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for a last event with usage."""
    return bool((body.get("stream_options") or {}).get("include_usage"))
