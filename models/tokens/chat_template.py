"""Renders chat templates as transformers and vLLM do, without importing either.

Jinja is set up as in `transformers.utils.chat_template_utils`, in a sandbox, because a template is
a program that came with a model. `tests/models/tokens` compares the results.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class ChatTemplate:
    """A chat template that gets the same variables as in vLLM.

    Args:
        source: Jinja source; compiled at the first use, because a broken one may never be used.
        special: texts of the tokenizer's special tokens, which templates use by name.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._source = source
        self._special = special

    def render(self, body: Mapping[str, Any], *, timeout_s: float = math.inf) -> str:
        """Render the prompt of a chat.

        Args:
            body: as an engine gets it.
            timeout_s: after which the template is ended at the next piece of text that it makes.

        Raises:
            TimeoutError: the template took longer.
            Exception: anything that the template raises.
        """
        ends_at, pieces = time.monotonic() + timeout_s, []
        for piece in self._compiled.generate(self._given(body)):
            if time.monotonic() > ends_at:
                raise TimeoutError
            pieces.append(piece)
        return "".join(pieces)

    def _given(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of the template for a chat."""
        tools = body.get("tools")
        effort = body.get("reasoning_effort")
        asked = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
        return {
            **self._special,
            **asked,
            "messages": [self._message(message) for message in body["messages"]],
            "tools": [_tool(tool) for tool in tools] if tools else None,
            "documents": None,
            "add_generation_prompt": True,
        }

    @cached_property
    def _compiled(self) -> Template:
        return _environment().from_string(self._source)

    @cached_property
    def _takes_parts(self) -> bool:
        try:
            return _loops_over_content(_environment().parse(self._source))
        except ValueError:
            return False

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a message like vLLM's `_parse_chat_message_content`, for text only."""
        role = message["role"]
        given: dict[str, Any] = {"role": role, "content": self._content(message)}
        if role == "assistant":
            if calls := message.get("tool_calls"):
                given["tool_calls"] = [_tool_call(call) for call in calls]
            if (reasoning := message.get("reasoning_content")) is not None:
                names = ("thinking", "reasoning", "reasoning_content")
                given |= dict.fromkeys(names, reasoning)
        if role == "tool" and "tool_call_id" in message:
            given["tool_call_id"] = message["tool_call_id"]
        if isinstance(message.get("name"), str):
            given["name"] = message["name"]
        return given

    def _content(self, message: Mapping[str, Any]) -> str | list[dict[str, str]]:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [part["text"] for part in content or ()]
        if self._takes_parts and message["role"] != "tool":
            return [{"type": "text", "text": text} for text in texts]
        return "\n".join(texts)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a tool, with the fields and their order of vLLM's `ChatCompletionToolsParam`."""
    function = tool["function"]
    given = {name: function.get(name) for name in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        given["strict"] = function["strict"]
    return {"type": "function", "function": given}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a tool call in the field order of OpenAI's types; its arguments become an object."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        arguments = {}
    named = {
        "arguments": arguments if isinstance(arguments, dict) else {},
        "name": function["name"],
    }
    return {"id": call["id"], "function": named, "type": "function"}


class _GenerationTag(Extension):
    """The tag `{% generation %}`, which marks training targets. Here it only opens a scope."""

    tags = {"generation"}  # noqa: RUF012  As Jinja declares it.

    def parse(self, parser: Parser) -> nodes.Node:
        """See `Extension.parse`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """The `dict` of templates, without the type's other attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """`dict.fromkeys`."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """The `namespace` of templates, in which no name begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names.
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError("A template cannot keep private names in a namespace.")


def _environment() -> Environment:
    """Set up the sandbox of `transformers.utils.chat_template_utils`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Serialise without Jinja's HTML escapes. Templates may pass options by position."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  Local, as the engine's is.


def _loops_over_content(template: nodes.Template) -> bool:
    """Whether vLLM passes content parts to a template instead of texts (`_detect_content_format`).

    Raises:
        ValueError: vLLM does not recognise the template's form.
    """
    loops = list(template.find_all(nodes.For))
    lists = list(_aliases(template, "messages"))
    messages = [_name(loop.target) for loop in loops if any(_is(loop.iter, a) for a in lists)]
    return any(
        (isinstance(loop.iter, nodes.Name) and loop.iter.name == "content")
        or any(_is(loop.iter, message, "content") for message in messages)
        for loop in loops
    )


def _aliases(template: nodes.Template, name: str) -> Iterator[str]:
    """Yield the name and all names that it, or a part of it, is assigned to."""
    known = [name]
    for one in known:
        yield one
        for assignment in template.find_all(nodes.Assign):
            if _is(assignment.node, one) and (other := _name(assignment.target)) not in known:
                known.append(other)


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise ValueError("not a plain name")  # noqa: TRY004  It is no bug of a caller's.
    return target.name


def _is(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is a variable or its `key`, possibly filtered, tested or sliced."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return _is(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is(node.node, name, key)
    if key is None:
        return _is_variable(node, name)
    if isinstance(node, nodes.Getattr):
        return node.attr == key and _is_variable(node.node, name)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value == key and _is_variable(node.node, name)
    return False


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
