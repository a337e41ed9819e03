"""The engine protocol: a request goes in, rendered deltas and one usage record come out.

Knows nothing of HTTP, keys or where an engine runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["chat", "completion"]

Delta = bytes
"""One or more whole server-sent events (`data: {...}\\n\\n`), rendered, without `[DONE]`."""


class EngineError(Exception):
    """What an engine may raise. The message is shown to the client, so it names no internals.

    EngineError
    ├── RequestRejected          the request cannot be run as asked
    │   └── ContextLengthExceeded
    ├── EngineOverloaded         the queue is full: try again later, or elsewhere
    ├── EngineUnavailable        loading, stopped or failed
    ├── EngineTimeout            no delta in time
    └── EngineFailed             unexpected; the cause is in the engine's log
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestRejected(EngineError):
    """The request is invalid for this model; `param` is the field to change."""


class ContextLengthExceeded(RequestRejected):
    """Prompt and answer do not fit in the model's context."""


class EngineOverloaded(EngineError):
    """More requests wait than the engine's queue holds."""


class EngineUnavailable(EngineError):
    """The engine is loading, stopped or failed."""


class EngineTimeout(EngineError):
    """The engine sent nothing for longer than the caller may wait."""


class EngineFailed(EngineError):
    """The engine broke while it answered."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, already validated and reduced to the fields an engine may see.

    `body` follows OpenAI's request of the same kind, with three fields of vLLM's:
    `return_token_ids` asks for `token_ids` beside each text and `prompt_token_ids` in the first
    event; `continue_final_message`, with `add_generation_prompt` false, has a chat go on with its
    last message. Deltas are rendered as a stream whatever
    `stream_interval` is; it only says how many tokens one delta may carry after the first.
    """

    request_id: str
    kind: Kind
    body: dict[str, Any]
    stream_interval: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, over all of its choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text. `strings` is filled on request only."""

    ids: list[int]
    context_tokens: int
    strings: list[str] | None = None


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """What to tokenise: either a prompt, or messages (with tools) put through the chat template."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An `EngineError` as a value, for a process boundary that would log a raised one."""

    error: type[EngineError]
    message: str
    param: str | None = None

    def exception(self) -> EngineError:
        """The error this stands for."""
        return self.error(self.message, param=self.param)

    @classmethod
    def of(cls, error: EngineError) -> Failure:
        """The value that stands for `error`."""
        return cls(type(error), error.message, error.param)


class Engine(Protocol):
    """Runs one language model."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """Yield deltas in order, then exactly one `Usage` as the last item.

        Closing the generator stops the generation and frees its slot.

        Raises:
            EngineError: any of the tree; after the first item too.
        """
        ...

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Tokenise as this model's own tokenizer does.

        Raises:
            EngineError: `RequestRejected` for a prompt the model cannot take.
        """
        ...

    async def detokenize(self, token_ids: list[int]) -> str:
        """Text of token ids.

        Raises:
            EngineError: `RequestRejected` for an id outside the vocabulary.
        """
        ...
