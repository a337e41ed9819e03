"""Prepared answers of a simulated model, in vLLM's JSON.

Tokens repeat a few words, because LiteLLM treats a hundred equal tokens as a broken model. Knows
nothing of HTTP or time.
"""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice

import orjson

MODEL = "simulated"
WORDS = (" and", " the", " rain", " fell", " on", " quiet", " roads", " again")
_COMMON = {"id": "chatcmpl-0", "created": 0, "model": MODEL}


def _event(fields: dict[str, object]) -> bytes:
    document = {**_COMMON, "object": "chat.completion.chunk", **fields}
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _delta(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({"choices": [choice | {"token_ids": None}]})


ROLE = _delta({"role": "assistant", "content": ""}, None)
TOKENS = tuple(_delta({"content": word}, None) for word in WORDS)
LAST_TOKEN = _delta({"content": WORDS[0]}, "length")
DONE = b"data: [DONE]\n\n"


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}


@cache
def usage_frame(tokens: int) -> bytes:
    """Return the usage event."""
    return _event({"choices": [], "usage": _usage(tokens)})


@cache
def whole(tokens: int) -> bytes:
    """Return the unstreamed answer with that many tokens."""
    message = {"role": "assistant", "content": "".join(islice(cycle(WORDS), tokens))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    fields = {"object": "chat.completion", "choices": [choice], "usage": _usage(tokens)}
    return orjson.dumps({**_COMMON, **fields})
