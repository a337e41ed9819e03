"""Words, numbers and signs of a text at their places, as the rules for names look at it."""

from __future__ import annotations

import re
from dataclasses import dataclass

WORD = r"[^\W\d_]+(?:['’.-][^\W\d_]+)*"  # noqa: RUF001  An apostrophe as it is written.

_TOKEN = re.compile(rf"C/(?=\s)|{WORD}|\d+(?:[/.-]\d+)*(?:st|nd|rd|th|[A-Za-z])?\b|\S")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a sign; `low` is it in lower case."""

    start: int
    end: int
    text: str
    low: str

    @property
    def is_number(self) -> bool:
        """Whether it begins with a digit."""
        return self.text[0].isdigit()

    @property
    def is_word(self) -> bool:
        """Whether it begins with a letter."""
        return self.text[0].isalpha()

    @property
    def is_capitalised(self) -> bool:
        """Whether it begins with a capital."""
        return self.text[0] != self.low[0]


def tokens_of(text: str) -> list[Token]:
    """Return all tokens, in order; spaces lie between them."""
    return [
        Token(found.start(), found.end(), found[0], found[0].lower())
        for found in _TOKEN.finditer(text)
    ]


def words(text: str) -> frozenset[str]:
    """The words of `text`, which has spaces between them."""
    return frozenset(text.split())
