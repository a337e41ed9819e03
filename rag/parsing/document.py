"""A document: its text in sections, each with its page or slide number."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WIDEST_GAP = 16
"""Maximum spaces or tabs in a row. More carry no meaning and slow the chunker down."""

_LINE_ENDS = re.compile(r"\r\n?|[\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_OTHER_SPACE = re.compile(r"[^\S\n\t ]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LINE_TAIL = re.compile(r"(?<=\S)[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_GAPS = re.compile(rf"( {{{_WIDEST_GAP}}}) +|(\t{{{_WIDEST_GAP}}})\t+")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the text that is on one page.

    Attributes:
        text: the text, `cleaned` once it is part of a document.
        page: page of a PDF or slide of a presentation, from 1; None if the format has no pages.
    """

    text: str
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """Non-empty sections in reading order."""

    sections: list[Section]


def cleaned(text: str) -> str:
    """Normalise white space and remove control characters.

    Visible characters stay. Lines end with a newline, blank lines are reduced to one, and white
    space
    becomes newlines, tabs and spaces. Characters that databases or UTF-8 reject are removed.
    """
    text = _without_surrogates(text)
    text = _LINE_ENDS.sub("\n", text)
    text = _OTHER_SPACE.sub(" ", _CONTROL.sub("", text))
    text = _BLANK_LINES.sub("\n\n", _LINE_TAIL.sub("", text))
    return _GAPS.sub(r"\1\2", text).strip("\n").rstrip()


def _without_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
