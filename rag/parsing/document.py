"""A document: its text in order, each section with the page or slide that it is on."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WIDEST_GAP = 16
"""Spaces or tabs in a row. More carry no meaning, and cost the chunker a level each."""

_LINE_ENDS = re.compile(r"\r\n?|[\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_OTHER_SPACE = re.compile(r"[^\S\n\t ]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_LINE_TAIL = re.compile(r"(?<=\S)[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_GAPS = re.compile(rf"( {{{_WIDEST_GAP}}}) +|(\t{{{_WIDEST_GAP}}})\t+")


@dataclass(frozen=True, slots=True)
class Section:
    """Text that is on one page.

    Args:
        text: as `cleaned`, once it is in a document.
        page: of a PDF, or slide of a presentation, from 1; None: the format knows no pages.
    """

    text: str
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """Sections in reading order, none of them empty."""

    sections: list[Section]


def cleaned(text: str) -> str:
    """The text with plain white space and without control characters.

    What can be seen stays. Lines end in a newline, one blank line at most divides them, and white
    space is newlines, tabs and spaces. What databases and UTF-8 do not take is gone.
    """
    text = _without_surrogates(text)
    text = _LINE_ENDS.sub("\n", text)
    text = _OTHER_SPACE.sub(" ", _CONTROL.sub("", text))
    text = _BLANK_LINES.sub("\n\n", _LINE_TAIL.sub("", text))
    return _GAPS.sub(r"\1\2", text).strip("\n").rstrip()


def _without_surrogates(text: str) -> str:
    """Pairs made whole, and lone ones replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
