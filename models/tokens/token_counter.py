"""Counts the prompt tokens of a request like the model's engine, before the engine is called.

Imports neither torch, transformers nor vLLM; their preparation of a chat is repeated here on the
model's files, and `tests/models/tokens` compares the results. Knows nothing of limits or
budgets.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from models.catalog import ModelSpec
from models.engine import Engine, EngineError, Kind, TokenizeRequest
from models.simulated.text import MARK, VOCABULARY_SIZE, chat_prompt, decode
from models.threads import Threads
from models.tokens.chat_template import ChatTemplate
from models.tokens.tokenizer_files import (
    SPECIAL_NAMES,
    load_tokenizer,
    read_json,
    template_sources,
    text_of,
    tokenizer_config,
)

_THREADS = Threads("tokens", 4)
_TEMPLATE_THREADS = Threads("templates", 2)

COUNT_TIMEOUT_S = 5.0
"""Time to render and count a chat; past it the upper bound counts. A template is a program, and
what it does with a client's messages may take long."""

INLINE_CHARACTERS = 4_000
"""Longer chats are rendered, and longer texts tokenised, in a thread, which takes the loop 0.1 ms.
These take it 1.5 ms."""

TEMPLATE_TOKENS = 512
"""Allowance of an upper bound for the template's own text, such as its tool instructions."""

SPECIAL_TOKENS = 4
"""Allowance of an upper bound for special tokens around a text."""

SIMULATED_CONTEXT_TOKENS = 8192
"""Default context of a simulated model; a test compares it with the engine's."""

_RENDERING_ARGUMENTS = frozenset(
    {
        "chat_template", "chat_template_content_format", "default_chat_template_kwargs",
        "exclude_tools_when_tool_choice_none", "tokenizer", "tokenizer_mode", "tokenizer_revision",
        "config_format", "hf_config_path", "hf_overrides", "model_impl",
    }
)  # fmt: skip
"""Arguments of vLLM that change prompts, so that a model's files alone do not determine them."""

_RENDERED_IN_CODE = frozenset(
    {
        "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "GptOssForCausalLM",
        "InklingForCausalLM", "InklingForConditionalGeneration", "KimiK3ForConditionalGeneration",
        "MoonshotKimiaForCausalLM",
    }
)  # fmt: skip
"""Architectures whose prompts vLLM builds without a chat template."""


class TokenCounter(Protocol):
    """Counts the prompt tokens of one model. Never raises for invalid input of a client."""

    @property
    def context_tokens(self) -> int | None:
        """Maximum tokens of prompt and answer, or of an input to embed; None if unknown."""
        ...

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int | None:
        """Count the prompt tokens of a generation over all its prompts; None if unknown.

        Args:
            kind: kind of `body`.
            body: the body in the engine's form (`to_engine()`).
        """
        ...

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int | None:
        """Count the tokens of inputs to embed, special tokens included; None if unknown.

        Nothing is truncated.
        """
        ...


def counter(spec: ModelSpec, directory: Path | None, engine: Engine | None) -> TokenCounter:
    """Return the counter of a model.

    Args:
        spec: its catalogue entry.
        directory: its files, if they are on this node.
        engine: the engine to query if the files are absent or do not determine prompts.
    """
    if spec.simulated:
        return SimulatedCounter(spec)
    if directory is not None and _says_all(directory, spec):
        return LocalCounter(spec, directory)
    return RemoteCounter(engine, spec.context_tokens)


def _says_all(directory: Path, spec: ModelSpec) -> bool:
    """Whether the files alone determine the prompt."""
    architectures = read_json(directory / "config.json").get("architectures") or ()
    return (
        (directory / "tokenizer.json").is_file()
        and not any(directory.glob("consolidated*.safetensors"))  # Mistral's library counts these.
        and _RENDERING_ARGUMENTS.isdisjoint(spec.engine_kwargs)
        and _RENDERED_IN_CODE.isdisjoint(architectures)
    )


class LocalCounter:
    """A `TokenCounter` that uses the model's own tokenizer and chat template.

    Loading takes 0.1 s and 40 MB for a vocabulary of 49,000.

    Args:
        spec: the model.
        directory: the directory that `prepare` returned.
        timeout_s: see `COUNT_TIMEOUT_S`.
    """

    def __init__(
        self, spec: ModelSpec, directory: Path, *, timeout_s: float = COUNT_TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        config = tokenizer_config(directory)
        special = {name: text for name in SPECIAL_NAMES if (text := text_of(config.get(name)))}
        sources = template_sources(directory, config)
        self._tokenizer = load_tokenizer(directory, config, special)
        self._templates = {name: ChatTemplate(text, special) for name, text in sources.items()}
        longest = read_json(directory / "sentence_bert_config.json").get("max_seq_length")
        limits = [limit for limit in (spec.context_tokens, longest) if limit]
        self.context_tokens: int | None = min(limits, default=None)

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int | None:
        """See `TokenCounter.count`."""
        try:
            if kind == "chat":
                return await self._of_chat(body)
            return await self._exactly(_prompts(body["prompt"]))
        # A template is a program and may raise anything; vLLM then rejects the request.
        except Exception:  # noqa: BLE001
            return None

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int | None:
        """See `TokenCounter.count_texts`."""
        try:
            return await self._exactly(inputs)
        except (TypeError, ValueError):  # UTF-8 cannot represent a lone surrogate.
            return None

    async def _of_chat(self, body: Mapping[str, Any]) -> int:
        if _is_short(body):
            return self._rendered_and_encoded(body)
        async with asyncio.timeout(self._timeout_s):
            return await _TEMPLATE_THREADS.run(self._rendered_and_encoded, body)

    def _rendered_and_encoded(self, body: Mapping[str, Any]) -> int:
        named = "tool_use" if body.get("tools") and "tool_use" in self._templates else "default"
        rendered = self._templates[named].render(body, timeout_s=self._timeout_s)
        return self._encoded([rendered], add_special_tokens=False)

    async def _exactly(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        texts = [one for one in inputs if isinstance(one, str)]
        given = sum(len(one) for one in inputs if not isinstance(one, str))
        return given + await self._tokens(texts, add_special_tokens=True)

    async def _tokens(self, texts: list[str], *, add_special_tokens: bool) -> int:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._encoded(texts, add_special_tokens)
        return await _THREADS.run(self._encoded, texts, add_special_tokens)

    def _encoded(self, texts: list[str], add_special_tokens: bool) -> int:
        # `encode` would hold the GIL, which makes a thread useless, and compute offsets.
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return sum(map(len, found))


class SimulatedCounter:
    """A `TokenCounter` of a simulated model."""

    def __init__(self, spec: ModelSpec) -> None:
        self.context_tokens: int | None = spec.context_tokens or SIMULATED_CONTEXT_TOKENS

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int | None:
        """See `TokenCounter.count`."""
        if kind == "completion":
            return await self.count_texts(_prompts(body["prompt"]))
        try:
            prompt = chat_prompt(body["messages"], body.get("tools"), add_generation_prompt=True)
        except TypeError:  # A tool's schema contains an integer of more than 64 bits.
            return None
        return _simulated_tokens(prompt)

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
        """See `TokenCounter.count_texts`."""
        return sum(_simulated_tokens(one) if isinstance(one, str) else len(one) for one in inputs)


class RemoteCounter:
    """A `TokenCounter` that queries the engine, with one round trip per prompt.

    Args:
        engine: the engine; None if nothing can be counted.
        context_tokens: the context if known; else the engine's first answer provides it.
    """

    def __init__(self, engine: Engine | None, context_tokens: int | None) -> None:
        self._engine = engine
        self.context_tokens = context_tokens

    async def count(self, kind: Kind, body: Mapping[str, Any]) -> int | None:
        """See `TokenCounter.count`."""
        if kind == "completion":
            return await self.count_texts(_prompts(body["prompt"]))
        messages = [_with_reasoning(message) for message in body["messages"]]
        request = TokenizeRequest(messages=messages, tools=body.get("tools"))
        try:
            return await self._asked(request)
        except EngineError:
            return None

    async def count_texts(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> int | None:
        """See `TokenCounter.count_texts`."""
        total = 0
        try:
            for one in inputs:
                if isinstance(one, str):
                    total += await self._asked(TokenizeRequest(prompt=one))
                else:
                    total += len(one)
        except EngineError:
            return None
        return total

    async def _asked(self, request: TokenizeRequest) -> int:
        if self._engine is None:
            raise EngineError("There is no engine to ask.")
        tokens = await self._engine.tokenize(request)
        self.context_tokens = self.context_tokens or tokens.context_tokens
        return len(tokens.ids)


def upper_bound(kind: Kind, body: Mapping[str, Any]) -> int:
    """Return an upper bound of a request's tokens: a token is at least one byte."""
    if kind == "completion":
        return upper_bound_of_texts(_prompts(body["prompt"]))
    said = json.dumps([body["messages"], body.get("tools")], ensure_ascii=False)
    return len(said.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS


def upper_bound_of_texts(inputs: Sequence[str] | Sequence[Sequence[int]]) -> int:
    """Return an upper bound of the tokens of inputs to embed."""
    return sum(
        len(one.encode("utf-8", "surrogatepass")) + SPECIAL_TOKENS
        if isinstance(one, str)
        else len(one)
        for one in inputs
    )


def _is_short(body: Mapping[str, Any]) -> bool:
    """Whether a chat has few enough characters to be rendered and counted at once."""
    left = INLINE_CHARACTERS - len(str(body.get("tools") or ""))
    for message in body["messages"]:
        left -= sum(len(one if isinstance(one, str) else str(one)) for one in message.values())
        if left < 0:
            return False
    return left >= 0


def _prompts(prompt: Any) -> list[Any]:
    """Return the prompts of a completion, each a text or token ids."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Add the field for reasoning that vLLM's tokenize endpoint reads."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else message | {"reasoning": reasoning}


def _simulated_pieces() -> re.Pattern[bytes]:
    """Return a pattern of the simulated model's tokens of more than one byte."""
    pieces = [decode([i]) for i in range(256, VOCABULARY_SIZE)]
    # With the space outside the alternation, this is four times as fast.
    words = "|".join(re.escape(piece[1:]) for piece in pieces if piece.startswith(" "))
    return re.compile(f"{re.escape(MARK)}| (?:{words})".encode())


_SIMULATED_PIECES = _simulated_pieces()


def _simulated_tokens(text: str) -> int:
    """Return `len(encode(text))` without building the list."""
    return len(_SIMULATED_PIECES.sub(b"-", text.encode("utf-8", "replace")))
