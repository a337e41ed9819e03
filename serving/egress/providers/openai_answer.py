"""OpenAI's streamed answers, checked: chunks with known fields only, and whether all is there."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models import openai_stream
from models.engine import Kind, Usage
from models.openai_stream import Chunk, usage_of
from serving.egress.providers.provider import ProviderBroken, ProviderRequest

MAX_INDEX = 1024
"""Largest index of a tool call in one answer."""

_ENDS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "eos": "stop",
    "model_length": "length",
}
"""OpenAI's reasons, and what compatible servers send for them. Any other is no end."""

Count = Annotated[int, Field(ge=0, lt=2**31)]


def head(request: ProviderRequest) -> Chunk:
    """Return the head of an answer's chunks: nothing in it is the provider's."""
    answer_id = openai_stream.answer_id(request.kind, request.request_id)
    return openai_stream.head(request.kind, answer_id, model=request.model, created=time.time())


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Function(_Wire):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(_Wire):
    index: Annotated[int, Field(ge=0, lt=MAX_INDEX)] = 0
    id: str | None = None
    type: Literal["function"] | None = None
    function: _Function | None = None

    @model_validator(mode="after")
    def _opened(self) -> Self:
        """A call opens with the arguments `""`, which some compatible servers leave out."""
        if self.id is not None and self.function is not None:
            self.function.arguments = self.function.arguments or ""
        return self


class _Delta(_Wire):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(
        default=None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    tool_calls: list[_ToolCall] | None = None


class _Choice(_Wire):
    index: Count
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _ChatChoice(_Choice):
    delta: _Delta


class _TextChoice(_Choice):
    text: str


class _PromptDetails(_Wire):
    cached_tokens: Count | None = None


class _Usage(_Wire):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: _PromptDetails | None = None


class _ChatChunk(_Wire):
    choices: list[_ChatChoice]
    usage: _Usage | None = None


class _TextChunk(_Wire):
    choices: list[_TextChoice]
    usage: _Usage | None = None


_CHUNKS: dict[Kind, type[_ChatChunk | _TextChunk]] = {"chat": _ChatChunk, "completion": _TextChunk}


class OpenAIAnswer:
    """An answer, from its events.

    Args:
        request: what was asked.
        choices: how many answers it asked for.
    """

    def __init__(self, request: ProviderRequest, *, choices: int) -> None:
        self._head = head(request)
        self._model = _CHUNKS[request.kind]
        self._open = set(range(choices))
        self._choices = choices
        self._usage: _Usage | None = None

    def chunk(self, event: dict[str, Any]) -> Chunk | None:
        """The chunk that an event stands for, if it has any choice.

        Raises:
            ProviderBroken: the event is not what OpenAI's API sends.
        """
        try:
            chunk = self._model.model_validate(event)
        except ValidationError:
            raise ProviderBroken("an event of the answer is malformed", code="malformed") from None
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return None
        return self._head | {"choices": [self._choice(choice) for choice in chunk.choices]}

    def usage(self) -> Usage:
        """Return the usage of the answer, after its last event.

        Raises:
            ProviderBroken: it is not whole, or does not tell.
        """
        if self._open:
            raise ProviderBroken("the answer was cut short", code="cut")
        if self._usage is None:
            raise ProviderBroken("the answer does not tell its usage", code="no_usage")
        return usage_of(self._usage.model_dump())

    def _choice(self, choice: _Choice) -> dict[str, Any]:
        if choice.index >= self._choices:
            raise ProviderBroken("the answer has a choice too many", code="malformed")
        told = choice.model_dump(exclude_unset=True)
        if choice.finish_reason is not None:
            if choice.finish_reason not in _ENDS:
                raise ProviderBroken("the answer ended for no known reason", code="finish_reason")
            told["finish_reason"] = _ENDS[choice.finish_reason]
            self._open.discard(choice.index)
        return {"finish_reason": None} | told
