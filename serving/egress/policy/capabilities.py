"""Capabilities of provider models, so that a fallback is never a bad request.

Knows what is asked and what is offered; neither prices, nor privacy, nor who is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from models.engine import Kind

TOKEN_MARGIN = 0.3
"""By how much a prompt may be longer in a provider's tokens than in ours: a third more was seen
between tokenizers of one maker."""

MIN_ANSWER_TOKENS = 16
"""Room for an answer without a limit of its own."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider's model supports. The defaults are those of a plain chat model.

    Attributes:
        context_tokens: of prompt and answer together.
        max_output_tokens: of the answer; None: what the context leaves.
        tools: definitions and calls of functions.
        parallel_tools: the field that allows or forbids several calls at once.
        schema: answers that follow a JSON schema.
        json_object: answers that are any JSON object.
        vision: images in messages, as data URLs.
        logprobs: and `top_logprobs`.
        n: the most answers to one request.
        chat: conversations.
        completions: plain prompts.
        stops: the most stop sequences.
        blank_stops: stop sequences of white space only.
        seed: a seed that is heeded as well as the maker can.
        continuation: goes on with the answer in a last message of the assistant.
        token_margin: the part by which its count of a prompt may be above ours.
    """

    context_tokens: int
    max_output_tokens: int | None = None
    tools: bool = False
    parallel_tools: bool = False
    schema: bool = False
    json_object: bool = False
    vision: bool = False
    logprobs: bool = False
    n: int = 1
    chat: bool = True
    completions: bool = False
    stops: int = 4
    blank_stops: bool = True
    seed: bool = False
    continuation: bool = False
    token_margin: float = TOKEN_MARGIN


@dataclass(frozen=True, slots=True)
class Facts:
    """The needs of a request. `prompt_tokens` are those of one prompt, by our count."""

    kind: Kind
    prompt_tokens: int
    answer_tokens: int | None = None
    tools: bool = False
    parallel_tools: bool = False
    schema: bool = False
    json_object: bool = False
    vision: bool = False
    logprobs: bool = False
    n: int = 1
    stops: int = 0
    blank_stops: bool = False
    seed: bool = False
    continuation: bool = False

    @classmethod
    def of(
        cls, kind: Kind, body: Mapping[str, Any], *, prompt_tokens: int, continuation: bool = False
    ) -> Facts:
        """The facts of an OpenAI request body; `continuation` is not in it but in its use."""
        stop = body.get("stop") or []
        stops = [stop] if isinstance(stop, str) else stop
        messages = body.get("messages") or []
        answer_format = (body.get("response_format") or {}).get("type")
        return cls(
            kind=kind,
            prompt_tokens=prompt_tokens,
            answer_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            tools=bool(body.get("tools")) or any(_calls(message) for message in messages),
            parallel_tools=bool(body.get("tools")) and body.get("parallel_tool_calls") is not None,
            schema=answer_format == "json_schema",
            json_object=answer_format == "json_object",
            vision=any(_has_image(message) for message in messages),
            logprobs=_asked(body.get("logprobs")),
            n=max(body.get("n") or 1, body.get("best_of") or 1),
            stops=len(stops),
            blank_stops=any(not one.strip() for one in stops),
            seed=body.get("seed") is not None,
            continuation=continuation,
        )


def _asked(logprobs: bool | int | None) -> bool:
    """A chat's are true or false; a completion's are a number, and 0 asks for some too."""
    return logprobs is not None and logprobs is not False


def _calls(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "tool" or bool(message.get("tool_calls"))


def _has_image(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


def why_not(facts: Facts, offered: Capabilities) -> str | None:
    """Return why a model cannot run such a request, as an identifier; None if it can."""
    return next((reason for reason, lacks in _LACKS.items() if lacks(facts, offered)), None)


def _too_long(facts: Facts, offered: Capabilities) -> bool:
    answer_tokens = facts.answer_tokens or MIN_ANSWER_TOKENS
    prompt_tokens = ceil(facts.prompt_tokens * (1 + offered.token_margin))
    return prompt_tokens + answer_tokens > offered.context_tokens


def _answer_too_long(facts: Facts, offered: Capabilities) -> bool:
    most = offered.max_output_tokens
    return most is not None and (facts.answer_tokens or 0) > most


def _not_of_kind(facts: Facts, offered: Capabilities) -> bool:
    return not (offered.chat if facts.kind == "chat" else offered.completions)


_LACKS: dict[str, Callable[[Facts, Capabilities], bool]] = {
    "kind": _not_of_kind,
    "context_length": _too_long,
    "output_tokens": _answer_too_long,
    "tools": lambda facts, offered: facts.tools and not offered.tools,
    "parallel_tools": lambda facts, offered: facts.parallel_tools and not offered.parallel_tools,
    "schema": lambda facts, offered: facts.schema and not offered.schema,
    "json_object": lambda facts, offered: facts.json_object and not offered.json_object,
    "vision": lambda facts, offered: facts.vision and not offered.vision,
    "logprobs": lambda facts, offered: facts.logprobs and not offered.logprobs,
    "n": lambda facts, offered: facts.n > offered.n,
    "stop": lambda facts, offered: (
        facts.stops > offered.stops or (facts.blank_stops and not offered.blank_stops)
    ),
    "seed": lambda facts, offered: facts.seed and not offered.seed,
    "continuation": lambda facts, offered: facts.continuation and not offered.continuation,
}
