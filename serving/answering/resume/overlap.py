"""Overlap: drops what a continuation repeats of the text that it continues.

Knows texts only, in pieces: the result is the same however they are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_OVERLAP = 256
"""Characters of a repeated end; the whole text may be longer."""

LONG_OVERLAP = 16
"""Characters from which a repeat that begins inside a word is no chance."""


class Overlap:
    """Drops the longest of some texts that a continuation begins with.

    Args:
        repeats: the texts, the longest first.
    """

    __slots__ = ("_held", "_repeats")

    def __init__(self, repeats: Sequence[str]) -> None:
        self._repeats = repeats
        self._held = ""

    def feed(self, text: str) -> str:
        """Take a piece; what can be given now. Held back is what may be a longer repeat yet."""
        if not self._repeats:
            return text
        held = self._held = self._held + text
        for repeat in self._repeats:
            if held.startswith(repeat):
                return self._given(held[len(repeat) :])
            if repeat.startswith(held):
                return ""
        return self._given(held)

    def flush(self) -> str:
        """The rest, at the end of the continuation."""
        held = self._held
        found = next((one for one in self._repeats if held.startswith(one)), "")
        return self._given(held[len(found) :])

    def _given(self, text: str) -> str:
        self._repeats, self._held = (), ""
        return text


def repeats(said: str) -> list[str]:
    """Return the repetitions that a continuation of a text may begin with, the longest first.

    All of it; or an end of it that begins with a word, or is long. A letter or two inside a word
    that are the same on both sides are a double letter, and stay.
    """
    ends = (said[-size:] for size in range(min(MAX_OVERLAP, len(said)), 0, -1))
    found = [end for end in ends if _counts(said, end)]
    return [said, *found] if said and said not in found[:1] else found


def _counts(said: str, end: str) -> bool:
    if len(end) >= LONG_OVERLAP:
        return True
    before = said[-len(end) - 1 : -len(end)]
    return any(map(str.isalnum, end)) and not (before.isalnum() and end[0].isalnum())
