"""Converts OpenAI's chat request into Anthropic's (https://platform.claude.com/docs/en/api).

Pure: what has no counterpart is refused here, before anything leaves, or left out where only
quality or reproducibility depends on it (seed, penalties, logit_bias, reasoning_effort).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from serving.egress.providers.provider import ProviderRejected
from serving.egress.providers.tool_names import ToolNames

Block = dict[str, Any]
Body = dict[str, Any]

OPENING = "(The conversation begins with an answer of the assistant.)"
"""The user's turn before a first turn of the assistant: Anthropic wants one."""

_DATA_URL = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,([A-Za-z0-9+/]+={0,2})")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class AnthropicDialect:
    """Features of an API version and its models.

    Attributes:
        version: of the API, by its date.
        sampling: whether temperature and top_p are sent; versions from 2026-10-21 on refuse them.
        max_tokens: of an answer where nobody names a limit: Anthropic wants one.
    """

    version: str = "2026-10-21"
    sampling: bool = False
    max_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class Conversion:
    """A body for Anthropic, and how the tools in it are called."""

    body: Body = field(repr=False)
    tools: ToolNames


def converted(
    given: Body, *, model: str, dialect: AnthropicDialect, answer_tokens: int | None = None
) -> Conversion:
    """Convert OpenAI's chat request `given`.

    An answer that follows a JSON schema is asked for by `output_config`, which constrains the
    decoding, not by a forced tool: it leaves tools free, and the answer is plain text as OpenAI's.

    Raises:
        ProviderRejected: it asks for what Anthropic does not have; `code` is the field.
    """
    _refuse_unknown(given)
    tools = ToolNames(tool["function"]["name"] for tool in given.get("tools") or [])
    system, turns = _conversation(given["messages"], tools)
    asked = given.get("max_completion_tokens") or given.get("max_tokens")
    most = asked or answer_tokens or dialect.max_tokens
    body: Body = {"model": model, "max_tokens": most, "messages": turns, "stream": True}
    if system:
        body["system"] = system
    if stops := _stops(given.get("stop")):
        body["stop_sequences"] = stops
    if dialect.sampling:
        body |= _sampling(given)
    return Conversion(body | _tools(given, tools) | _format(given.get("response_format")), tools)


def _refuse_unknown(given: Body) -> None:
    if (given.get("n") or 1) > 1:
        raise _unsupported("n")
    if given.get("logprobs") or given.get("top_logprobs"):
        raise _unsupported("logprobs")


def _unsupported(code: str) -> ProviderRejected:
    return ProviderRejected("Anthropic's API has no counterpart of a field", code=code)


def _conversation(messages: list[Body], tools: ToolNames) -> tuple[str, list[Body]]:
    """The system prompt, and turns that alternate, the user's first."""
    system: list[str] = []
    turns: list[Body] = []
    for message in messages:
        if message["role"] in ("system", "developer"):
            system += [text for text in _texts(message.get("content")) if text]
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        if blocks := _blocks(message, tools):
            if not turns or turns[-1]["role"] != role:
                turns.append({"role": role, "content": []})
            turns[-1]["content"] += blocks
    if not turns:  # A system prompt alone is no conversation there.
        return "", [{"role": "user", "content": [_text(text) for text in system]}]
    if turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [_text(OPENING)]})
    for turn in turns:  # Results come first there.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    _trim(turns[-1])
    return "\n\n".join(system), turns


def _trim(turn: Body) -> None:
    """A begun answer may not end in white space there."""
    last = turn["content"][-1]
    if turn["role"] == "assistant" and last["type"] == "text":
        last["text"] = last["text"].rstrip()


def _blocks(message: Body, tools: ToolNames) -> list[Block]:
    content = message.get("content")
    if message["role"] == "tool":
        result: Block = {"type": "tool_result", "tool_use_id": _id(message["tool_call_id"])}
        if parts := list(_parts(content)):
            result["content"] = parts
        return [result]
    calls = message.get("tool_calls") or []
    refusal = message.get("refusal")
    said = [_text(refusal)] if refusal else []
    return [*_parts(content), *said, *(_tool_use(call, tools) for call in calls)]


def _parts(content: str | list[Body] | None) -> Iterable[Block]:
    """The blocks of a message's content; an empty text is none, as Anthropic refuses it."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content or []:
        if part["type"] == "image_url":
            yield _image(part["image_url"]["url"])
        elif text := _part_text(part):
            yield _text(text)


def _part_text(part: Body) -> str:
    if "text" not in part and "refusal" not in part:
        raise _unsupported(f"content_{part['type']}"[:40])
    return part.get("text") or part.get("refusal") or ""


def _texts(content: str | list[Body] | None) -> Iterable[str]:
    return (block["text"] for block in _parts(content) if block["type"] == "text")


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _image(url: str) -> Block:
    """An image by its bytes. One by its address would have the provider fetch it."""
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise ProviderRejected(
            "an image is sent as a data URL: JPEG, PNG, GIF or WebP in base64", code="image_url"
        )
    source = {"type": "base64", "media_type": match[1], "data": match[2]}
    return {"type": "image", "source": source}


def _id(tool_call_id: str) -> str:
    return _NOT_IN_IDS.sub("_", tool_call_id)


def _tool_use(call: Body, tools: ToolNames) -> Block:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": _id(call["id"]),
        "name": tools.there(function["name"]),
        "input": _arguments(function["arguments"]),
    }


def _arguments(text: str) -> dict[str, Any]:
    """Return arguments as an object, even if the model wrote no valid one."""
    try:
        value = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"arguments": value}


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if any(not one.strip() for one in stops):
        raise _unsupported("stop")  # Anthropic takes none of white space only.
    return stops


def _sampling(given: Body) -> Body:
    """Temperature, clamped to what Anthropic knows, or else top_p: newer models take only one."""
    if (temperature := given.get("temperature")) is not None:
        return {"temperature": min(temperature, 1.0)}
    return {"top_p": given["top_p"]} if given.get("top_p") is not None else {}


def _tools(given: Body, names: ToolNames) -> Body:
    if not given.get("tools"):
        return {}
    tools = [_tool(tool["function"], names) for tool in given["tools"]]
    choice = _choice(given.get("tool_choice") or "auto", names)
    if given.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools} if choice == {"type": "auto"} else {
        "tools": tools, "tool_choice": choice
    }  # fmt: skip


def _tool(function: Body, names: ToolNames) -> Body:
    tool: Body = {
        "name": names.there(function["name"]),
        "input_schema": {"type": "object"} | (function.get("parameters") or {"properties": {}}),
    }
    if function.get("description"):
        tool["description"] = function["description"]
    if function.get("strict"):
        tool["strict"] = True
    return tool


def _choice(choice: str | Body, names: ToolNames) -> Body:
    if isinstance(choice, dict):
        return {"type": "tool", "name": names.there(choice["function"]["name"])}
    return {"type": {"none": "none", "required": "any"}.get(choice, "auto")}


def _format(response_format: Body | None) -> Body:
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return {}
    if kind != "json_schema":
        raise _unsupported("json_object")
    schema = response_format["json_schema"]["schema"]
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
