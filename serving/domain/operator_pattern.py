"""A regular expression of the operator's, matched by RE2: in time that grows with the text only.

Python's `re` can take exponential time, and holds the interpreter meanwhile. A pattern that is
taken means what it means in Python; one that RE2 cannot match, or matches otherwise, is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

import re2  # type: ignore[import-untyped]

MAX_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""What RE2 may take for one pattern. A program that is too large is refused; past it a search goes
on without its cache of states, more slowly but still in linear time."""

MAX_LETTERS: Final = 16_384
"""Code points whose letter of ASCII is remembered."""

_WORD_CLASS = re.compile(r"\\[wWbB]")
_OPEN_REPETITION = re.compile(r"\{,\d")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNKNOWN: Final = (
    (re.compile(r"\\[1-9]|\(\?P="), "back-references, such as \\1"),
    (re.compile(r"\(\?<?[=!]"), "look-arounds, such as (?=...)"),
    (re.compile(r"\(\?>|[*+?}]\+"), "possessive quantifiers and atomic groups"),
    (re.compile(r"\(\?\("), "conditions, such as (?(1)...)"),
)


class UnusablePattern(ValueError):
    """A pattern that cannot be used. The message completes a sentence about it."""


class OperatorPattern:
    r"""A pattern, ready to be looked for.

    RE2 knows ASCII only in `\w` and `\b`. So where a pattern has those, it is looked for a second
    time with every other letter, in pattern and text, as one of ASCII. Beside such letters more may
    be found than Python would, and nothing is missed.

    Args:
        text: as written in the configuration.

    Raises:
        UnusablePattern: it is no regular expression, RE2 does not know it, or it matches nothing.
    """

    def __init__(self, text: str) -> None:
        try:
            meant = re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise UnusablePattern(f"is no regular expression: {error}") from None
        if meant.search(""):
            raise UnusablePattern("matches the empty text, so it marks nothing")
        if _OPEN_REPETITION.search(text):
            raise UnusablePattern("uses {,n}, which RE2 does not know; write {0,n}")
        self._pattern = _compiled(text)
        self._in_ascii = _compiled(_letters_of_ascii(text)) if _WORD_CLASS.search(text) else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end, in characters, of what matches; some of it may be told twice."""
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)  # They have no UTF-8.
            if self._in_ascii is not None:
                yield from _spans(self._in_ascii, _letters_of_ascii(text))
        yield from _spans(self._pattern, text)


def _spans(pattern: re2._Regexp, text: str) -> Iterator[tuple[int, int]]:
    # Python's `$` matches before a last line feed too.
    for match in pattern.finditer(text.removesuffix("\n")):
        start, end = match.span()
        if start < end:
            yield start, end


def _compiled(text: str) -> re2._Regexp:
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.never_capture = True
    options.log_errors = False  # They would be on standard error, with the pattern.
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    for unknown, name in _UNKNOWN:
        if unknown.search(text):
            raise UnusablePattern(f"uses {name}, which RE2 does not know; write it without them")
    raise UnusablePattern(f"cannot be matched in linear time by RE2: {told}")


def _letters_of_ascii(text: str) -> str:
    return text.translate(_LETTERS)


class _Letters(dict[int, int]):
    """For each code point one of ASCII of the same kind and case; others stay. Filled as needed."""

    def __missing__(self, code: int) -> int:
        plain = _plain(chr(code))
        if len(self) < MAX_LETTERS:
            self[code] = plain
        return plain


_LETTERS = _Letters()


def _plain(char: str) -> int:
    if char.isascii() or not char.isalnum():
        return ord(char)
    base = unicodedata.normalize("NFD", char)[0]
    if base.isascii() and base.isalnum():
        return ord(base)
    letter = chr(ord("a") + ord(char.lower()[0]) % 26)
    return ord(letter.upper() if char.isupper() else letter)
