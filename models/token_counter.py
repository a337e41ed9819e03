"""Prompt tokens of a request, counted as the model's engine will count them, before it is asked.

Imports neither torch, transformers nor vLLM: what those do to a chat before they tokenise it is
done here over their files, and `tests/models/test_token_counter.py` compares the two. Knows nothing
of limits or budgets.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from tokenizers import AddedToken, Tokenizer

from models.catalog import ModelSpec
from models.engine import Engine, EngineError, Kind, TokenizeRequest
from models.simulated_text import MARK, VOCABULARY_SIZE, chat_prompt, decode

INLINE_CHARACTERS = 4_000
"""Longer texts are tokenised in a thread, which takes the loop 0.1 ms. These take it 1.5 ms."""

TEMPLATE_TOKENS = 512
"""Part of an upper bound: for what a template says itself, such as how tools are called."""

SPECIAL_TOKENS = 4
"""Part of an upper bound: for what a tokenizer puts around a text."""

SIMULATED_CONTEXT_TOKENS = 8192
"""Of a simulated model that does not say; a test holds it to the engine's."""

_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

_RENDERING_ARGUMENTS = frozenset(
    {
        "chat_template", "chat_template_content_format", "default_chat_template_kwargs",
        "exclude_tools_when_tool_choice_none", "tokenizer", "tokenizer_mode", "tokenizer_revision",
        "config_format", "hf_config_path", "hf_overrides", "model_impl",
    }
)  # fmt: skip
"""Arguments of vLLM's after which a model's files alone do not say how a prompt is made."""

_RENDERED_IN_CODE = frozenset(
    {
        "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "GptOssForCausalLM",
        "InklingForCausalLM", "InklingForConditionalGeneration", "KimiK3ForConditionalGeneration",
        "MoonshotKimiaForCausalLM",
    }
)  # fmt: skip
"""Architectures whose prompts vLLM makes without a chat template."""


class TokenCounter(Protocol):
    """Counts the prompt tokens of one model. Never raises for what a client sent."""

    @property
    def context_tokens(self) -> int | None:
        """Most tokens prompt and answer can have together, or an input to embed; None: unknown."""
        ...

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        """Prompt tokens of a generation, over all of its prompts.

        Where they cannot be told, an upper bound: too much is reserved rather than too little.

        Args:
            kind: what `body` is.
            body: as an engine gets it (`to_engine()`).
        """
        ...

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        """Tokens of inputs to embed, all together, special ones included. Nothing is truncated."""
        ...


def counter(spec: ModelSpec, directory: Path | None, engine: Engine | None) -> TokenCounter:
    """The counter of a model.

    Args:
        spec: its catalogue entry.
        directory: its files, if they are on this node.
        engine: to ask where the files are absent, or do not say how a prompt is made.
    """
    if spec.simulated:
        return SimulatedCounter(spec)
    if directory is not None and _says_all(directory, spec):
        return LocalCounter(spec, directory)
    return RemoteCounter(engine, spec.context_tokens)


def _says_all(directory: Path, spec: ModelSpec) -> bool:
    """Whether the files alone say how a prompt is made."""
    architectures = _json(directory / "config.json").get("architectures") or ()
    return (
        (directory / "tokenizer.json").is_file()
        and not any(directory.glob("consolidated*.safetensors"))  # Then Mistral's library counts.
        and _RENDERING_ARGUMENTS.isdisjoint(spec.engine_kwargs)
        and _RENDERED_IN_CODE.isdisjoint(architectures)
    )


class LocalCounter:
    """`TokenCounter` over a model's own tokenizer and chat template.

    Loading takes 0.1 s and 40 MB for a vocabulary of 49,000.

    Args:
        spec: the model.
        directory: what `prepare` returned.
    """

    def __init__(self, spec: ModelSpec, directory: Path) -> None:
        config = _tokenizer_config(directory)
        special = {name: text for name in _SPECIAL_NAMES if (text := _text_of(config.get(name)))}
        sources = _template_sources(directory, config)
        self._tokenizer = _tokenizer(directory, config, special)
        self._templates = {name: _Template(text, special) for name, text in sources.items()}
        longest = _json(directory / "sentence_bert_config.json").get("max_seq_length")
        limits = [limit for limit in (spec.context_tokens, longest) if limit]
        self.context_tokens: int | None = min(limits, default=None)

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        """See `TokenCounter.count`."""
        try:
            if kind == "chat":
                return await self._tokens([self._rendered(body)], add_special_tokens=False)
            return await self._exactly(_prompts(body["prompt"]))
        # A template is a program and may raise anything; then vLLM refuses the request.
        except Exception:  # noqa: BLE001
            return upper_bound(kind, body)

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        """See `TokenCounter.count_texts`."""
        try:
            return await self._exactly(inputs)
        except (TypeError, ValueError):  # A lone surrogate, which has no UTF-8.
            return _upper_bound_of(inputs)

    def _rendered(self, body: Mapping[str, Any]) -> str:
        named = "tool_use" if body.get("tools") and "tool_use" in self._templates else "default"
        return self._templates[named].render(body)

    async def _exactly(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        texts = [one for one in inputs if isinstance(one, str)]
        given = sum(len(one) for one in inputs if not isinstance(one, str))
        return given + await self._tokens(texts, add_special_tokens=True)

    async def _tokens(self, texts: list[str], *, add_special_tokens: bool) -> int:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._encoded(texts, add_special_tokens)
        return await asyncio.to_thread(self._encoded, texts, add_special_tokens)

    def _encoded(self, texts: list[str], add_special_tokens: bool) -> int:
        # `encode` would hold the GIL, so that a thread would not help; and compute offsets.
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return sum(map(len, found))


class SimulatedCounter:
    """`TokenCounter` of a simulated model."""

    def __init__(self, spec: ModelSpec) -> None:
        self.context_tokens: int | None = spec.context_tokens or SIMULATED_CONTEXT_TOKENS

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        """See `TokenCounter.count`."""
        if kind == "completion":
            return await self.count_texts(_prompts(body["prompt"]))
        try:
            prompt = chat_prompt(body["messages"], body.get("tools"), add_generation_prompt=True)
        except TypeError:  # An integer of more than 64 bits in a tool's schema.
            return upper_bound(kind, body)
        return _simulated_tokens(prompt)

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        """See `TokenCounter.count_texts`."""
        return sum(_simulated_tokens(one) if isinstance(one, str) else len(one) for one in inputs)


class RemoteCounter:
    """`TokenCounter` that asks the engine: a round trip a prompt.

    Args:
        engine: None: every answer is an upper bound.
        context_tokens: if known; else the engine's first answer says.
    """

    def __init__(self, engine: Engine | None, context_tokens: int | None) -> None:
        self._engine = engine
        self.context_tokens = context_tokens

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int:
        """See `TokenCounter.count`."""
        if kind == "completion":
            return await self.count_texts(_prompts(body["prompt"]))
        messages = [_with_reasoning(message) for message in body["messages"]]
        request = TokenizeRequest(messages=messages, tools=body.get("tools"))
        try:
            return await self._asked(request)
        except EngineError:
            return upper_bound(kind, body)

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        """See `TokenCounter.count_texts`."""
        total = 0
        try:
            for one in inputs:
                if isinstance(one, str):
                    total += await self._asked(TokenizeRequest(prompt=one))
                else:
                    total += len(one)
        except EngineError:
            return _upper_bound_of(inputs)
        return total

    async def _asked(self, request: TokenizeRequest) -> int:
        if self._engine is None:
            raise EngineError("There is no engine to ask.")
        tokens = await self._engine.tokenize(request)
        self.context_tokens = self.context_tokens or tokens.context_tokens
        return len(tokens.ids)


def upper_bound(kind: Kind, body: Mapping[str, Any]) -> int:
    """No fewer tokens than a request has: a token stands for a byte at least."""
    if kind == "completion":
        return _upper_bound_of(_prompts(body["prompt"]))
    said = json.dumps([body["messages"], body.get("tools")], ensure_ascii=False)
    return len(said.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS


def _upper_bound_of(inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
    return sum(
        len(one.encode("utf-8", "surrogatepass")) + SPECIAL_TOKENS
        if isinstance(one, str)
        else len(one)
        for one in inputs
    )


def _prompts(prompt: Any) -> list[Any]:
    """Each prompt of a completion: a text, or token ids."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the name for reasoning that vLLM's tokenize endpoint reads."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else message | {"reasoning": reasoning}


def _simulated_pieces() -> re.Pattern[bytes]:
    """What a simulated model has one token for, of more than one byte."""
    pieces = [decode([i]) for i in range(256, VOCABULARY_SIZE)]
    # With the words' space taken out of the alternation this is four times as fast.
    words = "|".join(re.escape(piece[1:]) for piece in pieces if piece.startswith(" "))
    return re.compile(f"{re.escape(MARK)}| (?:{words})".encode())


_SIMULATED_PIECES = _simulated_pieces()


def _simulated_tokens(text: str) -> int:
    """`len(encode(text))`, without the list."""
    return len(_SIMULATED_PIECES.sub(b"-", text.encode("utf-8", "replace")))


class _Template:
    """A chat template, given what vLLM gives it.

    Args:
        source: Jinja; compiled at the first use, as one that is wrong may never be used.
        special: texts of the tokenizer's special tokens, which templates know by name.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._source = source
        self._special = special

    def render(self, body: Mapping[str, Any]) -> str:
        """The prompt of a chat.

        Raises:
            Exception: anything that the template raises.
        """
        tools = body.get("tools")
        effort = body.get("reasoning_effort")
        asked = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
        return self._compiled.render(
            {
                **self._special,
                **asked,
                "messages": [self._message(message) for message in body["messages"]],
                "tools": [_tool(tool) for tool in tools] if tools else None,
                "documents": None,
                "add_generation_prompt": True,
            }
        )

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
        """`_parse_chat_message_content` of vLLM's `chat_utils`, of text only."""
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
    """A tool with the fields, and in the order, of vLLM's `ChatCompletionToolsParam`."""
    function = tool["function"]
    given = {name: function.get(name) for name in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        given["strict"] = function["strict"]
    return {"type": "function", "function": given}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call in the order of OpenAI's types, its arguments an object whatever they are."""
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
    """`{% generation %}` marks what a model said, for training. Here it only is a scope."""

    tags = {"generation"}  # noqa: RUF012  As Jinja declares it.

    def parse(self, parser: Parser) -> nodes.Node:
        """See `Extension.parse`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """`dict` of a template: the type's other attributes are none of its business."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """`dict.fromkeys`."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` of a template, in which no name begins with an underscore."""

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
    """The sandbox of `transformers.utils.chat_template_utils`."""
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
    """`tojson` without Jinja's escapes for HTML. Templates may pass options by position."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  Local, as the engine's is.


def _loops_over_content(template: nodes.Template) -> bool:
    """Whether vLLM gives a template parts rather than texts (`_detect_content_format`).

    Raises:
        ValueError: the template is not one of those that vLLM looks through.
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
    """The name, and the names that it, or a part of it, is assigned to."""
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
    """Whether an expression is a variable, or its `key`, perhaps filtered, tested or sliced."""
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


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, with what older models keep in `special_tokens_map.json`."""
    config = _json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | _json(directory / "special_tokens_map.json")


def _template_sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; files come before what the configuration holds."""
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if files:
        return {name: path.read_text("utf-8") for name, path in files.items()}
    kept = config.get("chat_template") or {}
    if isinstance(kept, list):
        return {template["name"]: template["template"] for template in kept}
    return {"default": kept} if isinstance(kept, str) else dict(kept)


def _tokenizer(directory: Path, config: Mapping[str, Any], special: Mapping[str, str]) -> Tokenizer:
    """The tokenizer as transformers' `TokenizersBackend` sets it up, for whole texts."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    named = dict.fromkeys((*special.values(), *_extra_special(config)))
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in named if text not in known]
    )
    return tokenizer


def _extra_special(config: Mapping[str, Any]) -> list[str]:
    """Special tokens beyond those of `_SPECIAL_NAMES`: listed, or named by the model."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    listed = listed.values() if isinstance(listed, dict) else listed
    own = [value for name, value in config.items() if name.endswith("_token")]
    return [text for value in (*listed, *own) if (text := _text_of(value))]


def _text_of(token: Any) -> str | None:
    """A special token, which is written as its text or as an object with more."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}
