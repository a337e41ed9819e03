"""Checks that token ids from clients belong to the model's own tokenizer.

From ids of another tokenizer, a model would make vectors of other texts, and no one would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SAMPLE = "Where is the station? It's 2 km away."
"""Sample for detecting special tokens, and whether ids can be decoded and encoded again."""

HINT = (
    "Send texts, or ids of this model's tokenizer with its special tokens. LangChain's"
    " OpenAIEmbeddings sends ids of another tokenizer unless it has"
    " check_embedding_ctx_length=False."
)


class OwnTokenIds:
    """Recognises the ids of one tokenizer.

    Args:
        tokenizer: a tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        whole, inner = self._ids(SAMPLE, special=True), self._ids(SAMPLE, special=False)
        at = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        self._prefix, self._suffix = whole[:at], whole[at + len(inner) :]
        self._reads_back = self._read_back(whole) == whole

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why ids (at least one) are not those of a text, or None; quotes no text."""
        if not all(0 <= token < self._size for token in ids):
            return f"token ids of this model are 0 to {self._size - 1}, and one is not. {HINT}"
        whole, prefix, suffix = list(ids), self._prefix, self._suffix
        framed = whole[: len(prefix)] == prefix and whole[len(whole) - len(suffix) :] == suffix
        if not framed or len(whole) < len(prefix) + len(suffix):
            return f"{self._frame()}, and these do not. {HINT}"
        if self._reads_back and self._read_back(whole) != whole:
            return f"this model's tokenizer gives other token ids for what these say. {HINT}"
        return None

    def _frame(self) -> str:
        ends = [
            f"{verb} with {', '.join(map(str, ids))}"
            for verb, ids in (("begin", self._prefix), ("end", self._suffix))
            if ids
        ]
        return f"token ids of a text {' and '.join(ends)} in this model"

    def _ids(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=special, truncation=False, verbose=False
        )["input_ids"]
        return ids

    def _read_back(self, ids: Sequence[int]) -> list[int]:
        """Decode ids and encode the text again. Special tokens are recognised."""
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return self._ids(text, special=False)
