"""Whether token ids that came from outside are those of a model's own tokenizer.

Ids of another one are numbers like any others: a model makes vectors of other texts from them, and
nobody notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SAMPLE = "Where is the station? It's 2 km away."
"""For what a tokenizer puts around a text, and whether its ids can be read back."""

HINT = (
    "Send texts, or ids of this model's tokenizer with its special tokens. LangChain's"
    " OpenAIEmbeddings sends ids of another tokenizer unless it has"
    " check_embedding_ctx_length=False."
)


class OwnTokenIds:
    """Knows the ids of one tokenizer.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        whole, inner = self._ids(SAMPLE, special=True), self._ids(SAMPLE, special=False)
        at = next((i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), 0)
        self._prefix, self._suffix = whole[:at], whole[at + len(inner) :]
        self._reads_back = self._read_back(whole) == whole

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Why ids, one at least, are not those of a text; None: they are. No text is in it."""
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
        """Ids of the text that these ids are. Special tokens are read as what they are."""
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return self._ids(text, special=False)
