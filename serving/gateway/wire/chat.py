"""Bodies of generations and embeddings. Types are strict; unknown fields are ignored.

Only the fields named here can reach an engine: chat templates, guided-decoding backends and
transfer parameters of vLLM are not among them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from serving.config import LimitSettings
from serving.domain.calls import OnFailure
from serving.domain.errors import InvalidRequest, Unsupported
from serving.domain.privacy_class import PrivacyClass
from serving.gateway.wire.conversation import (
    JsonSchemaFormat,
    Messages,
    NamedToolChoice,
    Quick,
    ResponseFormat,
    Text,
    Tool,
    Tools,
    Wire,
    check_conversation,
)
from serving.gateway.wire.search import Groundable

PRIVACY_DESCRIPTION = (
    "The class of the request. The strictest of this, the key's class and the header counts."
)
STAYS_DESCRIPTION = "Accepted and checked. A request of this kind never leaves, whatever its class."

TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Tokens = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

MAX_BIASES = 1024
"""OpenAI's limit on `logit_bias`."""

_TOKEN_ID_TEXT = re.compile(r"[0-9]{1,10}")

SomeIds = Annotated[list[TokenId], Field(min_length=1), Quick]


def _prompt_shape(value: Any) -> str:
    """Choose the member of `Prompt` for a value. Trying each of them would take seconds."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "texts" if isinstance(first, str) else "lists" if isinstance(first, list) else "ids"


Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1), Quick, Tag("texts")]
    | Annotated[SomeIds, Tag("ids")]
    | Annotated[list[SomeIds], Field(min_length=1), Quick, Tag("lists")],
    Discriminator(_prompt_shape),
]
"""A text, texts, token ids, or the token ids of each text."""


def _biases(value: Any) -> Any:
    """Check size and keys first, so that no key of a client's choice gets into an error."""
    if isinstance(value, dict):
        if len(value) > MAX_BIASES:
            raise ValueError(f"holds at most {MAX_BIASES} tokens")
        if not all(_TOKEN_ID_TEXT.fullmatch(key) for key in value):
            raise ValueError("takes token ids as keys")
    return value


class StreamOptions(Wire):
    """`include_usage` asks for a last event with usage."""

    include_usage: bool = False


class Sampling(Wire):
    """Fields that chat and completions share: OpenAI's, then vLLM's that are safe to offer."""

    model: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Quick] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[Number, Field(ge=-100, le=100)]], BeforeValidator(_biases)]
        | None
    ) = None
    max_tokens: Tokens | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(
        None, description="Sample from this many of the likeliest tokens; -1 or 0 takes all."
    )
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="Leave out tokens less likely than this share of the likeliest one."
    )
    repetition_penalty: Annotated[Number, Field(gt=0, le=2)] | None = Field(
        None, description="Above 1 makes tokens that occurred before, prompt included, less likely."
    )
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="The answer does not end before it has this many tokens."
    )
    ignore_eos: bool | None = Field(
        None, description="If true, the answer goes on to its limit when the model would end it."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64), Quick] | None = Field(
        None, description="Token ids that end the answer."
    )
    privacy: PrivacyClass | None = Field(None, description=PRIVACY_DESCRIPTION)
    on_failure: OnFailure | None = Field(
        None,
        description="What to do if the answer breaks off: `fail` ends it with an error, `continue` "
        "has another replica, or a provider where allowed, go on with it. Default: `fail`.",
    )

    @property
    def choices(self) -> int:
        """The number of answers."""
        return self.n or 1

    def check(self, limits: LimitSettings) -> None:
        """Refuse a well-formed body that exceeds a limit.

        Raises:
            InvalidRequest: which field, and the limit.
        """
        if self.choices > limits.max_choices:
            raise InvalidRequest(f"n is at most {limits.max_choices} here.", param="n")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > limits.max_stop_sequences or any(not s or len(s) > 256 for s in stops):
            raise InvalidRequest(
                f"stop takes at most {limits.max_stop_sequences} texts of 1 to 256 characters.",
                param="stop",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is only allowed when stream is true.", param="stream_options"
            )

    def sampling(self) -> dict[str, Any]:
        """The shared fields that were sent and are not null."""
        fields = set(Sampling.model_fields) - {"model", "stream", "privacy", "on_failure"}
        return self.model_dump(include=fields, exclude_none=True)


class ChatRequest(Groundable, Sampling):
    """`POST /v1/chat/completions`."""

    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    def check(self, limits: LimitSettings) -> None:
        """See `Sampling.check`."""
        super().check(limits)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        check_conversation(self.messages, self.tools or [], limits)
        self._check_tool_choice(self.tools or [])

    def _check_tool_choice(self, tools: list[Tool]) -> None:
        if self.tool_choice in (None, "none", "auto"):
            return
        if not tools:
            raise InvalidRequest("tool_choice needs tools.", param="tool_choice")
        if isinstance(self.tool_choice, NamedToolChoice):
            name = self.tool_choice.function.name
            if all(tool.function.name != name for tool in tools):
                raise InvalidRequest(
                    f"tool_choice names {name!r}, which is not among tools.", param="tool_choice"
                )

    def schemas(self) -> dict[str, dict[str, Any]]:
        """JSON schemas in the request, by the field they stand in."""
        found = {
            f"tools[{at}].function.parameters": tool.function.parameters
            for at, tool in enumerate(self.tools or [])
        }
        if isinstance(self.response_format, JsonSchemaFormat):
            found["response_format.json_schema.schema"] = self.response_format.json_schema.schema_
        return found

    def to_engine(self) -> dict[str, Any]:
        """The body an engine gets."""
        body = self.sampling()
        body["messages"] = [message.to_engine() for message in self.messages]
        rest = self.model_dump(
            exclude={*Sampling.model_fields, *Groundable.model_fields},
            exclude_none=True,
            by_alias=True,
        )
        if not rest.get("tools"):
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                rest.pop(name, None)
        return body | rest


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: Text | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> int:
        """The number of prompts."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return 1
        return len(self.prompt)

    @property
    def choices(self) -> int:
        """The number of answers, over all prompts."""
        return (self.n or 1) * self.prompts

    def check(self, limits: LimitSettings) -> None:
        """See `Sampling.check`."""
        if self.prompts > limits.max_choices:
            raise InvalidRequest(
                f"prompt holds at most {limits.max_choices} prompts.", param="prompt"
            )
        super().check(limits)
        if self.suffix:
            raise Unsupported("suffix is not supported.", param="suffix")
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise Unsupported("best_of above n is not supported.", param="best_of")

    def to_engine(self) -> dict[str, Any]:
        """The body an engine gets."""
        given = {"prompt": self.prompt, "logprobs": self.logprobs, "echo": self.echo}
        return self.sampling() | {k: v for k, v in given.items() if v is not None}


class EmbeddingRequest(Wire):
    """`POST /v1/embeddings`."""

    model: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    privacy: PrivacyClass | None = Field(None, description=STAYS_DESCRIPTION)

    def inputs(self) -> list[str] | list[list[int]]:
        """The texts, or the token ids of each text."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input

    def check(self, limits: LimitSettings) -> None:
        """Refuse an empty text, or more texts than the limit.

        Raises:
            InvalidRequest: which field, and the limit.
        """
        inputs = self.inputs()
        if len(inputs) > limits.max_embedding_inputs:
            raise InvalidRequest(
                f"input holds at most {limits.max_embedding_inputs} texts.", param="input"
            )
        if any(not text for text in inputs):
            raise InvalidRequest("input holds an empty text.", param="input")


class TokenizeBody(Wire):
    """`POST /tokenize`, as vLLM has it: a prompt, or messages. It never leaves, in any class."""

    model: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
    prompt: Text | None = Field(
        None, description="A text to tokenise. Give either this or `messages`."
    )
    messages: Messages | None = Field(
        None, description="A conversation, tokenised as a chat's prompt is."
    )
    tools: Tools | None = Field(None, description="Tools that are put into the chat's prompt.")
    add_special_tokens: bool | None = Field(
        None, description="Whether the tokenizer adds its special tokens."
    )
    add_generation_prompt: bool = Field(
        default=True, description="Whether the conversation ends with the beginning of an answer."
    )
    return_token_strs: bool = Field(
        default=False, description="Whether the answer has the text of each token in `token_strs`."
    )
    privacy: PrivacyClass | None = Field(None, description=STAYS_DESCRIPTION)

    @model_validator(mode="after")
    def _one_source(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def check(self, limits: LimitSettings) -> None:
        """See `Sampling.check`."""
        check_conversation(self.messages or [], self.tools or [], limits)


class DetokenizeBody(Wire):
    """`POST /detokenize`, as vLLM has it."""

    model: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
    tokens: Annotated[list[TokenId], Quick] = Field(description="Token ids of the model.")
    privacy: PrivacyClass | None = Field(None, description=STAYS_DESCRIPTION)
