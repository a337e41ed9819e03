"""Messages, tools and answer formats, as clients write them. Types are strict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from serving.config import LimitSettings
from serving.domain.errors import InvalidRequest, Unsupported

Text = Annotated[str, StringConstraints(strict=True)]
FunctionName = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

# Without it a body of a million wrong items makes a million errors, and blocks the loop for 15 s.
Quick = Field(fail_fast=True)


class Wire(BaseModel):
    """Base of request models."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class TextPart(Wire):
    """A piece of text in a message."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None


class MediaPart(Wire):
    """Anything else a client may put in a message. Recognised so that it can be refused."""

    type: Literal[
        "image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file"
    ]


class FunctionCall(Wire):
    """A call the assistant made. `arguments` is JSON text."""

    name: FunctionName
    arguments: Text


class ToolCall(Wire):
    """A tool call in an assistant's message."""

    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Wire):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Text
        | Annotated[list[Annotated[TextPart | MediaPart, Field(discriminator="type")]], Quick]
        | None
    ) = None
    name: Text | None = None
    tool_calls: Annotated[list[ToolCall], Quick] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None

    def to_engine(self) -> dict[str, Any]:
        """The message with plain text as content."""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.text(),
        }
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        return message

    def text(self) -> str:
        """Join all text parts by line breaks."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        parts = [part for part in self.content if isinstance(part, TextPart)]
        return "\n".join(part.text or part.refusal or "" for part in parts)


_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def _parameters(given: object) -> object:
    """The schema of a function's arguments, which are an object: what takes none may omit it."""
    return _NO_PARAMETERS if given is None or given == {} else given


class FunctionDefinition(Wire):
    """A function the model may call."""

    name: FunctionName
    description: Text | None = None
    parameters: Annotated[dict[str, Any], BeforeValidator(_parameters)] = _NO_PARAMETERS
    strict: bool | None = None


class Tool(Wire):
    """A tool the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Wire):
    """The function that must be called."""

    name: FunctionName


class NamedToolChoice(Wire):
    """A call of one named function is required."""

    type: Literal["function"] = "function"
    function: NamedFunction


Messages = Annotated[list[Message], Field(min_length=1), Quick]
Tools = Annotated[list[Tool], Quick]


def check_conversation(messages: list[Message], tools: list[Tool], limits: LimitSettings) -> None:
    """Refuse what no served model takes, and what exceeds the limits."""
    if len(messages) > limits.max_messages:
        raise InvalidRequest(
            f"messages holds at most {limits.max_messages} messages.", param="messages"
        )
    if len(tools) > limits.max_tools:
        raise InvalidRequest(f"tools holds at most {limits.max_tools} tools.", param="tools")
    for at, message in enumerate(messages):
        if isinstance(message.content, list) and any(
            isinstance(part, MediaPart) for part in message.content
        ):
            raise Unsupported(
                "This model takes text only. No image, audio or file is accepted or fetched.",
                param=f"messages[{at}].content",
            )
        if message.role == "tool" and message.tool_call_id is None:
            raise InvalidRequest(
                "A tool message names the call it answers in tool_call_id.",
                param=f"messages[{at}].tool_call_id",
            )


class JsonSchema(Wire):
    """The schema an answer must follow."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Wire):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]
