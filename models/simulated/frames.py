"""Renders server-sent events in vLLM's format for simulated answers."""

from __future__ import annotations

import orjson

from models import openai_stream
from models.engine import Delta, GenerationRequest, Usage
from models.simulated.text import Finish

_FINISH = b',"logprobs":null,"finish_reason":'
_END = b"}]}\n\n"


class Frames:
    """Renders the events of one request; their common prefix is serialised once.

    Args:
        request: provides id and kind of the answer.
        model: model id in the events.
        created: Unix seconds.
    """

    def __init__(self, request: GenerationRequest, *, model: str, created: float) -> None:
        chat = request.kind == "chat"
        answer_id = openai_stream.answer_id(request.kind, request.request_id)
        self._fields = openai_stream.head(request.kind, answer_id, model=model, created=created)
        self._head = openai_stream.DATA + orjson.dumps(self._fields)[:-1]
        self._open = b',"delta":{"content":' if chat else b',"text":'
        self._close = b"}" + _FINISH if chat else _FINISH

    def role(self, index: int) -> Delta:
        """Render the first event of a chat choice."""
        delta = b',"delta":{"role":"assistant","content":""}' + _FINISH + b"null" + _END
        return b'%b,"choices":[{"index":%d%b' % (self._head, index, delta)

    def content(self, index: int, text: str, finish: Finish | None) -> Delta:
        """Render a choice's next text, and its finish reason if it is the last."""
        reason = b'"%b"' % finish.encode() if finish else b"null"
        body = (self._head, index, self._open, orjson.dumps(text), self._close, reason, _END)
        return b'%b,"choices":[{"index":%d%b%b%b%b%b' % body

    def usage(self, usage: Usage) -> Delta:
        """Render the usage event, which has no choices."""
        return openai_stream.event(openai_stream.usage_chunk(self._fields, usage))
