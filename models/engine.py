"""The engine protocol: a request in, rendered deltas and one usage record out.

Knows nothing of HTTP, keys or the place where an engine runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["chat", "completion"]

Delta = bytes
"""One or more whole, rendered server-sent events (`data: {...}\\n\\n`), without `[DONE]`."""


class EngineError(Exception):
    """An error of an engine. The message is shown to the client, so it names no internals.

    EngineError
    ├── RequestRejected          the request cannot be run as it is
    │   └── ContextLengthExceeded
    ├── EngineOverloaded         the queue is full; try again later or elsewhere
    ├── EngineUnavailable        the engine is loading, stopped or failed
    ├── EngineTimeout            no delta came in time
    ├── ReaderTooSlow            more of the answer waits than is kept for one reader
    └── EngineFailed             an unexpected error; its cause is in the engine's log
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestRejected(EngineError):
    """The request is invalid for this model; `param` is the field to change."""


class ContextLengthExceeded(RequestRejected):
    """Prompt and answer exceed the model's context."""


class EngineOverloaded(EngineError):
    """The engine's queue is full."""


class EngineUnavailable(EngineError):
    """The engine is loading, stopped or failed."""


class EngineTimeout(EngineError):
    """The engine sent nothing for longer than allowed."""


class ReaderTooSlow(EngineError):
    """The client reads the answer more slowly than it is made, and more waits than is kept."""

    def __init__(
        self,
        message: str = "The answer was ended: the client does not read it fast enough.",
        *,
        param: str | None = None,
    ) -> None:
        super().__init__(message, param=param)


class EngineFailed(EngineError):
    """The engine failed during an answer."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A validated generation request with only the fields that an engine may see.

    `body` has the fields of OpenAI's request of the same kind, and three of vLLM's:
    `return_token_ids` adds `token_ids` to each text and `prompt_token_ids` to the first event;
    `continue_final_message`, with `add_generation_prompt` false, makes a chat continue its last
    message. Deltas are always rendered as a stream; `stream_interval` only limits the tokens of a
    delta after the first.
    """

    request_id: str
    kind: Kind
    body: dict[str, Any]
    stream_interval: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, over all of its choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Sum of prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text. `strings` is filled only on request."""

    ids: list[int]
    context_tokens: int
    strings: list[str] | None = None


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A prompt, or messages (with tools) for the chat template, to tokenise."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An `EngineError` as a value, for process boundaries that would log a raised error."""

    error: type[EngineError]
    message: str
    param: str | None = None

    def exception(self) -> EngineError:
        """Convert back to an error."""
        return self.error(self.message, param=self.param)

    @classmethod
    def of(cls, error: EngineError) -> Failure:
        """Convert an error to a value."""
        return cls(type(error), error.message, error.param)


class Engine(Protocol):
    """Runs one language model."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """Yield deltas in order, then exactly one `Usage` as the last item.

        Closing the generator stops the generation and frees its slot.

        Raises:
            EngineError: any subclass; also after the first item.
        """
        ...

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Tokenise with the model's own tokenizer.

        Raises:
            EngineError: `RequestRejected` if the model cannot take the prompt.
        """
        ...

    async def detokenize(self, token_ids: list[int]) -> str:
        """Return the text of token ids.

        Raises:
            EngineError: `RequestRejected` if an id is outside the vocabulary.
        """
        ...
