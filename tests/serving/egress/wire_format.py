"""Behaviours of stand-ins, and answers and errors in the formats of both APIs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from tests.serving.egress.standin import Behaviour, Received, Step

Event = dict[str, Any]


def head(status: int = 200, /, **headers: str) -> bytes:
    """Render status line and headers; an underscore in a name stands for a hyphen."""
    lines = [f"HTTP/1.1 {status} Scripted"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK = b"0\r\n\r\n"


def stream_head(**headers: str) -> bytes:
    told = {"content_type": "text/event-stream; charset=utf-8", "transfer_encoding": "chunked"}
    return head(**(told | headers))


def streams(
    body: bytes,
    *,
    cuts: Iterable[int] = (),
    pause_s: float = 0.0,
    first_pause_s: float = 0.0,
    then: Sequence[Step] | None = None,
    **headers: str,
) -> Behaviour:
    """An event stream.

    Args:
        body: all of it.
        cuts: places at which it is cut into chunks of their own.
        pause_s: before each chunk but the first.
        first_pause_s: between the head and the first chunk.
        then: what follows instead of the proper end.
        headers: besides those of a stream.
    """
    places = [0, *sorted(set(cuts)), len(body)]
    steps: list[Step] = [stream_head(**headers), first_pause_s]
    for at, (start, end) in enumerate(pairwise(places)):
        if at and pause_s:
            steps.append(pause_s)
        if end > start:
            steps.append(chunked(body[start:end]))
    return Behaviour((*steps, *(then or [LAST_CHUNK])), keep=then is None)


def refuses(status: int, body: Any = None, **headers: str) -> Behaviour:
    """Answer with an error that has a JSON body."""
    raw = orjson.dumps(body if body is not None else openai_error("scripted"))
    told = {"content_type": "application/json", "content_length": str(len(raw))}
    return Behaviour((head(status, **(told | headers)), raw), keep=True)


def redirects(to: str) -> Behaviour:
    return Behaviour((head(307, location=to, content_length="0"),), keep=True)


def answers(body: bytes, content_type: str, **headers: str) -> Behaviour:
    """Answer with status 200 and a whole body of any type."""
    told = {"content_type": content_type, "content_length": str(len(body))}
    return Behaviour((head(**(told | headers)), body), keep=True)


HANGS = Behaviour(("hang",))
"""Reads the request and never answers."""

SILENT = Behaviour((stream_head(), "hang"))
"""Sends headers and nothing more."""


def sse(*events: Event, done: bool = True) -> bytes:
    """Render events like OpenAI's API."""
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return body + (b"data: [DONE]\n\n" if done else b"")


def named_sse(*events: Event) -> bytes:
    """Render events like Anthropic's API, whose event names are the types."""
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
        for event in events
    )


def openai_error(code: str, message: str = "scripted") -> Event:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def anthropic_error(kind: str, message: str = "scripted") -> Event:
    return {"type": "error", "error": {"type": kind, "message": message}}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to be streamed in either format; its text comes in these pieces."""

    pieces: tuple[str, ...] = ("Hello", " there")
    finish: str = "stop"
    prompt_tokens: int = 7
    completion_tokens: int = 2
    extra: Event = field(default_factory=dict)

    def openai(self) -> list[Event]:
        deltas = [{"role": "assistant", "content": ""}, *({"content": p} for p in self.pieces)]
        choices: list[Event] = [
            {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": self.finish})
        return [*(self._openai([choice]) for choice in choices), self._usage()]

    def text(self) -> list[Event]:
        choices: list[Event] = [{"index": 0, "text": p, "finish_reason": None} for p in self.pieces]
        choices.append({"index": 0, "text": "", "finish_reason": self.finish})
        return [*(self._openai([choice]) for choice in choices), self._usage()]

    def anthropic(self) -> list[Event]:
        stop = {"stop": "end_turn", "length": "max_tokens"}[self.finish]
        usage: Event = {"input_tokens": self.prompt_tokens, "output_tokens": 1}
        message: Event = {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
                   "model": "there", "stop_reason": None, "usage": usage}  # fmt: skip
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0,
             "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": p}} for p in self.pieces),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None},
             "usage": {"output_tokens": self.completion_tokens}},
            {"type": "message_stop"},
        ]  # fmt: skip

    def _openai(self, choices: list[Event]) -> Event:
        head = {"id": "there-1", "object": "chat.completion.chunk", "created": 1, "model": "there"}
        return head | self.extra | {"choices": choices, "usage": None}

    def _usage(self) -> Event:
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        return self._openai([]) | {"usage": usage}


HELLO = Answer()


def echoes_openai(received: Received) -> Behaviour:
    """Answer with the last message's text, one word per piece."""
    text = received.json()["messages"][-1]["content"]
    return streams(sse(*Answer(tuple(text.split(" "))).openai()))


def every(size: int, body: bytes) -> range:
    """Return cuts of a body into pieces of one size."""
    return range(size, len(body), size)
