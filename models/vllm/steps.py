"""Outputs of vLLM's engine taken apart into single tokens, each with the text that it completes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm.outputs import CompletionOutput
from vllm.tokenizers import TokenizerLike

_CONTEXT_TOKENS = 8
"""Tokens before an output that decide how it is decoded: spaces, and parts of characters."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token: `ids` has one id, or none where an output has text only."""

    text: str
    ids: list[int]
    logprobs: list[Any] | None


class Steps:
    """Takes the outputs of one choice apart.

    vLLM joins tokens that its consumer was too slow to take one by one. Their text may lag behind
    them, as a character or a stop string may be incomplete. The lag at the end of an output is
    taken for all of it.

    Args:
        tokenizer: of the model.
        skip_special_tokens: whether vLLM leaves them out of the text.
    """

    def __init__(self, tokenizer: TokenizerLike, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._before: list[int] = []

    def of(self, output: CompletionOutput) -> Iterator[Step]:
        """Steps in order, which together are the output."""
        ids = list(output.token_ids)
        begin = 0
        for at, end in enumerate(self._ends(ids, output)):
            logprobs = None if output.logprobs is None else output.logprobs[at : at + 1]
            if ids or output.text:
                yield Step(output.text[begin:end], ids[at : at + 1], logprobs)
            begin = end
        self._before = [*self._before, *ids][-_CONTEXT_TOKENS:]

    def _ends(self, ids: list[int], output: CompletionOutput) -> list[int]:
        """Where the text of each token ends."""
        length = len(output.text)
        if len(ids) < 2:
            return [length]
        read = ids[:-1] if ended_by_model(output) else ids  # The token that ends has no text.
        decoded = [self._decoded(read[: count + 1]) for count in range(len(read))]
        lag = decoded[-1] - length
        ends = [min(max(end - lag, 0), length) for end in decoded]
        return ends if len(ends) == len(ids) else [*ends, length]

    def _decoded(self, ids: list[int]) -> int:
        """Characters that are complete after `ids`."""
        text = self._tokenizer.decode(
            [*self._before, *ids], skip_special_tokens=self._skip_special_tokens
        )
        return len(text.rstrip("\N{REPLACEMENT CHARACTER}"))


def ended_by_model(output: CompletionOutput) -> bool:
    """Whether the model ended with a token of its own, not at a limit or at a stop string."""
    return output.finish_reason == "stop" and not isinstance(output.stop_reason, str)
