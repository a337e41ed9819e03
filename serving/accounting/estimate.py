"""Estimates: the most that a request can use, and what an interrupted one has used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.engine import Kind, Usage

DEFAULT_COMPLETION_TOKENS = 16
"""The default of OpenAI and vLLM for `/v1/completions` without `max_tokens`."""

UNKNOWN_CONTEXT_TOKENS = 131_072
"""Assumed context of a model if neither its catalogue entry nor its engine tells it."""


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """The parts of a generation that decide how much it can use.

    `choices` are answers over all prompts; `most` is what one may have, None: what fits.
    """

    kind: Kind
    prompts: int
    choices: int
    most: int | None
    context_tokens: int

    @classmethod
    def of(cls, kind: Kind, body: Mapping[str, Any], context_tokens: int | None) -> TokenBudget:
        """The shape of a request's body, as an engine gets it."""
        prompts = _prompts(body.get("prompt"))
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        if most is None and kind == "completion":
            most = DEFAULT_COMPLETION_TOKENS
        context = context_tokens or UNKNOWN_CONTEXT_TOKENS
        return cls(kind, prompts, prompts * (body.get("n") or 1), most, context)

    @classmethod
    def of_embedding(cls, texts: int, context_tokens: int | None) -> TokenBudget:
        """The shape of so many texts to embed."""
        return cls("completion", texts, 0, 0, context_tokens or UNKNOWN_CONTEXT_TOKENS)

    def most_used(self, prompt_tokens: int | None, bound: Callable[[], int]) -> Usage:
        """The most that a request can use.

        Args:
            prompt_tokens: of all prompts together; None: they could not be counted.
            bound: no fewer than those. It takes no room from the answer, as the prompt may be
                far shorter, and answers cost more.
        """
        if prompt_tokens is not None:
            return Usage(prompt_tokens, self.completion_tokens(prompt_tokens))
        return Usage(min(bound(), self._most_prompt_tokens), self.completion_tokens(0))

    @property
    def _most_prompt_tokens(self) -> int:
        return self.context_tokens * self.prompts

    def completion_tokens(self, prompt_tokens: int) -> int:
        """The most tokens that all answers have together, to prompts of so many together."""
        shortest = prompt_tokens if self.prompts == 1 else 0  # One of several may be short.
        room = max(0, self.context_tokens - shortest)
        return self.choices * (room if self.most is None else min(self.most, room))

    def plausible(self, usage: Usage) -> bool:
        """Whether an engine can have used that: it may be broken, and money depends on it."""
        return (
            0 <= usage.cached_tokens <= usage.prompt_tokens
            and usage.prompt_tokens <= self._most_prompt_tokens
            and 0 <= usage.completion_tokens <= self.context_tokens * self.choices
        )

    def seen(self, *, events: int, interval: int, prompt_tokens: int) -> Usage:
        """The usage of an answer that was cut short after so many events of the stream.

        Args:
            events: that came; a chat begins with one without a token for each choice.
            interval: tokens of an event, but for the first.
            prompt_tokens: of all prompts together.
        """
        told = max(0, events - (self.choices if self.kind == "chat" else 0))
        firsts = min(told, self.choices)
        tokens = firsts + (told - firsts) * interval
        return Usage(prompt_tokens, min(tokens, self.completion_tokens(prompt_tokens)))


def _prompts(prompt: Any) -> int:
    """Count the prompts of a completion; a chat has one."""
    if not isinstance(prompt, list) or isinstance(prompt[0], int):
        return 1
    return len(prompt)
