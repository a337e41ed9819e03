"""An answer that has begun, as its client gets it from however many attempts: one id, one role.

Only for requests that asked to go on: deltas are read and written anew here. Knows nothing of who
answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.engine import Delta, EngineError, ReaderTooSlow, RequestRejected, Usage
from models.openai_stream import Chunk, chunks, event, head_of, usage_chunk, wants_usage
from serving.answering.resume.overlap import Overlap
from serving.answering.resume.resume_points import PartialText, ResumePoint

_NOT_TEXT = ("tool_calls", "function_call", "reasoning", "reasoning_content", "refusal")
_INTERNAL = ("token_ids", "prompt_token_ids", "text")


class PartialAnswer:
    """A chat answer with one choice, from one attempt or several.

    Args:
        body: of the request.

    Attributes:
        finished: whether it said how it ended.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._wants_usage = wants_usage(body)
        self._head: Chunk = {}
        self._text = ""
        self._plain = True
        self.finished = False
        self._usage: Usage | None = None
        self._told_usage: Chunk | None = None
        self._routes: list[str] = []
        self._begin(ResumePoint(0, 0))

    def goes_on(self, route: str, resume_point: ResumePoint) -> None:
        """An attempt begins, by a route, at that place in the text."""
        self._routes.append(route)
        self._begin(resume_point)

    def passed(self, delta: Delta) -> Delta:
        """Return what the client gets of a delta of the running attempt; often nothing."""
        passed = map(self._passed, chunks(delta))
        return b"".join(event(chunk) for chunk in passed if chunk is not None)

    def used(self, usage: Usage) -> None:
        """An attempt has ended, and used that."""
        before = self._usage or Usage(0, 0)
        self._usage = Usage(
            before.prompt_tokens + usage.prompt_tokens,
            before.completion_tokens + usage.completion_tokens,
            before.cached_tokens + usage.cached_tokens,
        )

    def helped(self, error: EngineError) -> bool:
        """Whether it is whole, or somebody else can go on, now that the attempt failed so."""
        return self._plain and not isinstance(error, RequestRejected | ReaderTooSlow)

    def partial(self, usage: Usage) -> PartialText:
        """Return the partial text. `usage` is that of the attempt that broke off."""
        produced = len(self._ids) if self._prompt_ids is not None else usage.completion_tokens
        return PartialText(
            self._text,
            self._tokens_before + (produced if self._text else 0),
            tuple(self._routes),
            self._prompt_ids,
            tuple(self._ids),
            self._at,
            self._tokens_before,
        )

    def end(self) -> Delta:
        """Return the last event, with the usage of all attempts if the client wants usage."""
        if not self._wants_usage or self._usage is None:
            return b""
        return event(usage_chunk(self._head, self._usage, self._told_usage))

    def _begin(self, resume_point: ResumePoint) -> None:
        self._prompt_ids: list[int] | None = None
        self._ids: list[int] = []
        self._at, self._tokens_before = resume_point.at, resume_point.tokens
        again = self._text[resume_point.at :]
        self._overlap = Overlap([again] if again else [])

    def _passed(self, chunk: Chunk) -> Chunk | None:
        first = not self._head
        if first:
            self._head = head_of(chunk)
        if not chunk["choices"]:
            self._told_usage = chunk.get("usage") if len(self._routes) == 1 else None
            return None
        choice = chunk["choices"][0]
        self._note_ids(chunk, choice)
        delta = {"content": choice["text"]} if "text" in choice else dict(choice["delta"])
        self._say(delta, choice.get("finish_reason"))
        if not first:
            delta.pop("role", None)
        if not (first or choice.get("finish_reason") or any(delta.values())):
            return None
        rest = {k: v for k, v in choice.items() if k not in _INTERNAL}
        return self._head | {"choices": [rest | {"delta": delta}]}

    def _note_ids(self, chunk: Chunk, choice: Chunk) -> None:
        """Keep the tokens, where the engine tells them."""
        prompt = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if prompt:
            self._prompt_ids = prompt
        if self._prompt_ids is not None:
            self._ids += choice.get("token_ids") or ()

    def _say(self, delta: Chunk, finish: str | None) -> None:
        """Take the text of a chunk, and leave only its new part in it."""
        if any(delta.get(name) for name in _NOT_TEXT):
            self._plain = False
        text = self._overlap.feed(delta.get("content") or "")
        if finish is not None:
            text += self._overlap.flush()
            self.finished = True
        if text or delta.get("content"):
            delta["content"] = text
        self._text += text
