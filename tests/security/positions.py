"""Every place of a request that can hold a client's text, as a table, with canaries for them."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Endpoint = Literal["chat", "completion"]
Outcome = Literal["scrubbed", "dropped", "refused"]
"""A pseudonym leaves and comes back as the text; nothing of it leaves; the request does not."""

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ6b2Uta2FuYXJpZSJ9.S2FuYXJpZW52b2dlbC1TaWduYXR1cg"
API_KEY = "sk-proj-Zk7QpX2mRv9sTb4LwYc8"
CANARIES = (
    "zoe.kanarie@example.org",
    "4539 5787 6362 1486",
    "+1 312 555 0147",
    "GB29 NWBK 6016 1331 9268 19",
    API_KEY,
    JWT,
)
TEXT = "Ask {}, card {}, or call {}. Pay to {}. My key is {}, the token {}.".format(*CANARIES)
NAMES = ("4539-5787-6362-1486", "312-555-0147", "GB29NWBK60161331926819")
"""Canaries for places that accept only letters, digits and hyphens."""
DIGITS = "4539578763621486"

Fields = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "look_up"}}


@dataclass(frozen=True, slots=True)
class Row:
    """A place, and what becomes of what stands there.

    Attributes:
        name: of the row.
        field: where the wire models have it (`text_fields`); in parentheses, where they do not.
        place: request fields with a text there.
        outcome: of it.
        canaries: which are put there, all in one text (`TEXT`).
        apart: they are put there one by one, each in a request of its own.
        endpoint: which takes it.
    """

    name: str
    field: str
    place: Callable[[str], Fields]
    outcome: Outcome = "scrubbed"
    canaries: tuple[str, ...] = CANARIES
    apart: bool = False
    endpoint: Endpoint = "chat"

    def requests(self) -> list[tuple[Fields, tuple[str, ...]]]:
        """Yield the bodies of the row, each with its canaries."""
        base = {"messages": [USER]} if self.endpoint == "chat" else {"prompt": "Hi"}
        texts = [(one, (one,)) for one in self.canaries] if self.apart else [(TEXT, CANARIES)]
        return [({"model": "chat"} | base | self.place(text), held) for text, held in texts]


def _said(role: str, **more: Any) -> Callable[[str], Fields]:
    return lambda text: {"messages": [{"role": role, "content": text} | more, USER]}


def _message(**fields: Callable[[str], Any]) -> Callable[[str], Fields]:
    """Build a message of the assistant with the text in these fields."""

    def place(text: str) -> Fields:
        told = {name: make(text) for name, make in fields.items()}
        return {"messages": [USER, {"role": "assistant", "content": "So"} | told, USER]}

    return place


def _called(call: Fields, answer: Fields | None = None) -> Fields:
    """Build a conversation in which a tool was called."""
    function = {"name": "look_up", "arguments": "{}"} | call.pop("function", {})
    made = {"id": "call_1", "type": "function"} | call | {"function": function}
    said = {"role": "assistant", "content": None, "tool_calls": [made]}
    told = {"role": "tool", "tool_call_id": made["id"], "content": "done"} | (answer or {})
    return {"messages": [USER, said, told]}


def _function(**fields: Any) -> Fields:
    return {"tools": [{"type": "function", "function": {"name": "look_up"} | fields}]}


def _parameter(make: Callable[[str], Fields]) -> Callable[[str], Fields]:
    """Put the text into the schema of a tool's parameter."""

    def place(text: str) -> Fields:
        schema = {"type": "object", "properties": {"to": {"type": "string"} | make(text)}}
        return _function(description="Looks up.", parameters=schema)

    return place


def _schema(**fields: Callable[[str], Any]) -> Callable[[str], Fields]:
    """Put the text into the schema of the answer."""

    def place(text: str) -> Fields:
        told = {name: make(text) for name, make in fields.items()}
        schema = {"name": "answer", "schema": {"type": "object"}} | told
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    return place


_PARAMETERS = "tools[].function.parameters{}"
_CALL = "messages[].tool_calls[]"
_ANSWER = "response_format.json_schema"

_CHAT = (
    *(Row(f"{one} text", "messages[].content", _said(one))
      for one in ("system", "developer", "user", "assistant")),
    Row("tool result", "messages[].content", lambda t: _called({}, {"content": t})),
    Row("tool result in JSON", "messages[].content",
        lambda t: _called({}, {"content": json.dumps({"rows": [{"to": t}]})})),
    Row("user parts", "messages[].content[].text",
        lambda t: {"messages": [{"role": "user", "content": [{"type": "text", "text": t}]}]}),
    Row("refusal part", "messages[].content[].refusal",
        _message(content=lambda t: [{"type": "refusal", "refusal": t}])),
    Row("name", "messages[].name",
        lambda t: {"messages": [USER | {"name": t}]}),
    Row("reasoning", "messages[].reasoning_content",
        _message(reasoning_content=lambda t: t), "dropped"),
    Row("call's id", f"{_CALL}.id", lambda t: _called({"id": t}), "dropped"),
    Row("answered call's id", "messages[].tool_call_id",
        lambda t: _called({}, {"tool_call_id": t}), "dropped"),
    Row("call's function", f"{_CALL}.function.name", lambda t: _called({"function": {"name": t}}),
        canaries=NAMES, apart=True),
    Row("call's function, a secret", f"{_CALL}.function.name",
        lambda t: _called({"function": {"name": t}}), "refused", canaries=(API_KEY,), apart=True),
    Row("call's arguments", f"{_CALL}.function.arguments",
        lambda t: _called({"function": {"arguments": json.dumps({"to": [t]})}})),
    Row("call's arguments, broken", f"{_CALL}.function.arguments",
        lambda t: _called({"function": {"arguments": '{"to": "' + t}})),
    Row("call's arguments, escaped", f"{_CALL}.function.arguments",
        lambda t: _called({"function": {"arguments": '{"to": "' + _escaped(t) + '"}'}})),
    Row("call's arguments, a key", f"{_CALL}.function.arguments",
        lambda t: _called({"function": {"arguments": json.dumps({t: 1})}})),
    Row("call's arguments, a number", f"{_CALL}.function.arguments",
        lambda t: _called({"function": {"arguments": '{"card": ' + t + "}"}}),
        canaries=(DIGITS,), apart=True),
    Row("tool's name", "tools[].function.name", lambda t: _function(name=t),
        canaries=NAMES, apart=True),
    Row("tool's name, a secret", "tools[].function.name", lambda t: _function(name=t), "refused",
        canaries=(API_KEY,), apart=True),
    Row("chosen tool", "tool_choice.function.name",
        lambda t: _function(name=t)
        | {"tool_choice": {"type": "function", "function": {"name": t}}},
        canaries=NAMES, apart=True),
    Row("tool's description", "tools[].function.description", lambda t: _function(description=t)),
    Row("parameter's description", _PARAMETERS, _parameter(lambda t: {"description": t})),
    Row("parameter's title", _PARAMETERS, _parameter(lambda t: {"title": t})),
    Row("parameter's enum", _PARAMETERS, _parameter(lambda t: {"enum": ["a", t]})),
    Row("parameter's default", _PARAMETERS, _parameter(lambda t: {"default": t})),
    Row("parameter's const", _PARAMETERS, _parameter(lambda t: {"const": t})),
    Row("parameter's const, a number", _PARAMETERS, _parameter(lambda t: {"const": int(t)}),
        canaries=(DIGITS,), apart=True),
    Row("parameter's examples", _PARAMETERS, _parameter(lambda t: {"examples": [{"to": t}]})),
    Row("parameter's name", _PARAMETERS, _parameter(lambda t: {"properties": {t: {}}})),
    Row("word of our own in a schema", _PARAMETERS, _parameter(lambda t: {"x-note": {t: t}})),
    Row("answer's name", f"{_ANSWER}.name", _schema(name=lambda t: t),
        canaries=NAMES, apart=True),
    Row("answer's name, a secret", f"{_ANSWER}.name", _schema(name=lambda t: t), "refused",
        canaries=(API_KEY,), apart=True),
    Row("answer's description", f"{_ANSWER}.description", _schema(description=lambda t: t)),
    Row("answer's schema", f"{_ANSWER}.schema{{}}",
        _schema(schema=lambda t: {"type": "string", "enum": [t]})),
    Row("answer's property", f"{_ANSWER}.schema{{}}",
        _schema(schema=lambda t: {"properties": {t: {"type": "string"}}})),
    Row("vector store", "file_search.vector_store_ids[]",
        lambda t: {"file_search": {"vector_store_ids": [t]}}, "refused"),
    Row("filter of a search", "file_search.filters{}",
        lambda t: {"file_search": {"vector_store_ids": ["vs_1"], "filters":
                                   {"type": "eq", "key": t, "value": t}}}, "refused"),
    Row("user field", "(user)", lambda t: {"user": t}, "dropped"),
    Row("metadata value", "(metadata)", lambda t: {"metadata": {"who": t}}, "dropped"),
    Row("metadata key", "(metadata)", lambda t: {"metadata": {t: "who"}}, "dropped"),
    Row("prediction", "(prediction)",
        lambda t: {"prediction": {"type": "content", "content": t}}, "dropped"),
    Row("field that nobody knows", "(other)", lambda t: {t: t}, "dropped"),
    Row("message field that nobody knows", "(other)", _message(note=lambda t: {t: t}), "dropped"),
)  # fmt: skip

_COMPLETION = (
    Row("prompt", "prompt", lambda t: {"prompt": t}),
    Row("prompt in an array", "prompt[]", lambda t: {"prompt": [t]}),
    Row("prompt in tokens", "(prompt)", lambda t: {"prompt": list(t.encode())}, "refused"),
    Row("suffix", "suffix", lambda t: {"suffix": t}, "refused"),
    Row("completion's user field", "(user)", lambda t: {"user": t}, "dropped"),
)

_EITHER = (
    Row("stop", "stop", lambda t: {"stop": t}),
    Row("stop in an array", "stop[]", lambda t: {"stop": [t]}),
    Row("biased token", "logit_bias{}", lambda t: {"logit_bias": {t: 1}}, "refused",
        canaries=("3125550147",), apart=True),
    Row("model", "model", lambda t: {"model": t}, "refused", apart=True),
)  # fmt: skip


def _escaped(text: str) -> str:
    """Encode as JSON with every character escaped."""
    return "".join(f"\\u{ord(one):04x}" for one in text)


def _for(endpoint: Endpoint, rows: tuple[Row, ...]) -> Iterator[Row]:
    for row in rows:
        name = f"{endpoint}: {row.name}"
        yield Row(name, row.field, row.place, row.outcome, row.canaries, row.apart, endpoint)


ROWS = (
    *_for("chat", _CHAT + _EITHER),
    *_for("completion", _COMPLETION + _EITHER),
)


def text_fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the fields of a wire model that can hold a client's text: `[]` for a list, `{}` for a
    dict."""
    for name, field in model.model_fields.items():
        yield from _texts(field.annotation, f"{path}.{field.alias or name}".lstrip("."))


def _texts(kind: Any, path: str) -> Iterator[str]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _texts(inner[0], path)
    elif origin in (Union, types.UnionType):
        for one in inner:
            yield from _texts(one, path)
    elif origin is list:
        yield from _texts(inner[0], f"{path}[]")
    elif origin in (dict, Mapping):
        yield f"{path}{{}}"
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from text_fields(kind, path)
    elif kind in (str, Any):
        yield path
    elif origin is not Literal and kind not in (int, float, bool, type(None)):
        raise TypeError(f"{path}: nobody knows whether {kind} can hold text")
