"""Shapes of values: what one looks like, what it checks by, and the words that stand near it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from serving.privacy.patterns.normalised import View
from serving.privacy.spans import EntityType, Span

Finder = Callable[[View], Iterable[Span]]
"""Finds values in a view; the spans are of the view's text and may overlap."""

REACH: Final = 60
"""How far before a value its keywords may stand; behind it, a third of that."""
MAX_NAMED_CHARS: Final = 48
"""Longest value that is decided by its keywords."""

_LETTERS = re.compile(r"[^\W\d_]+")
_BEGINNING = re.compile(r"(?s)\A(\[[^\]]+\]|\w)(\w?)(.*)")
_SEPARATORS = dict.fromkeys(map(ord, " \t\n.-/,()"))


@dataclass(frozen=True, slots=True)
class Words:
    """Words that tell what a value near them is, in lower case."""

    words: tuple[str, ...]
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _beginning: Mapping[str, Sequence[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        longest = sorted(self.words, key=len, reverse=True)
        words = "|".join(map(re.escape, longest))
        pattern = re.compile(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])")
        beginning: defaultdict[str, list[str]] = defaultdict(list)
        for word in self.words:
            beginning[_LETTERS.findall(word)[0]].append(word)
        object.__setattr__(self, "_pattern", pattern)
        object.__setattr__(self, "_beginning", beginning)

    def places(self, view: View) -> Iterator[tuple[int, int]]:
        """Find each of them in a text with a digit, word by word."""
        for first in self._beginning.keys() & view.words:
            for word in self._beginning[first]:
                at = view.lowered.find(word)
                while at >= 0:
                    if found := self._pattern.match(view.lowered, at):
                        yield found.span()
                    at = view.lowered.find(word, at + 1)

    def near(self, lowered: str, start: int, end: int, *, reach: int = REACH) -> bool:
        """Whether one of them is before or soon after a part of a text."""
        before, after = max(0, start - reach), end + reach // 3
        return bool(
            self._pattern.search(lowered, before, start)
            or self._pattern.search(lowered, end, after)
        )

    def before(self, lowered: str, start: int, *, within: int) -> bool:
        """Whether one of them is in so many characters before an offset."""
        return self._pattern.search(lowered, max(0, start - within), start) is not None


def starting(*alternatives: str, not_after: str, any_case: bool = False) -> str:
    """A pattern of any of these, where no such character is before it.

    It begins with the class of their first characters, to one of which a search skips. It tries
    every place in a text where a pattern begins with an assertion, or with a letter in any case.

    Args:
        alternatives: patterns; each begins with a letter or a class of letters. No quantifier is
            behind it, nor behind a letter that is next.
        not_after: what is in the class of characters that are not before it.
        any_case: whether case does not count.
    """
    firsts, ones = "", []
    for alternative in alternatives:
        [(first, second, rest)] = _BEGINNING.findall(alternative)
        first = first.strip("[]")
        if any_case:
            first, second = _either_case(first), second and f"[{_either_case(second)}]"
        firsts += first
        ones.append(f"{second}(?<=[{first}]{'.' if second else ''}){rest}")
    flag = "i" if any_case else ""
    return f"[{''.join(dict.fromkeys(firsts))}](?<![{not_after}].)(?{flag}:{'|'.join(ones)})"


def _either_case(letters: str) -> str:
    return letters.upper() + letters.lower()


def words(*those: str) -> Words:
    """Words, or several with spaces between them."""
    return Words(those)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternSpec:
    """A kind of value. Its score is the best of those that apply; 0 is no find.

    Args:
        entity: what such a value is.
        pattern: what it looks like; of a group named `value`, only that is the value.
        alone: its score for its look.
        check: takes the value without separators, in upper case.
        checked: its score where it checks.
        near: words that are near such values. Without other scores they are looked for first.
        named: its score where one is.
        both: its score where one is and it checks.
        reach: how far before it they are.
        marks: of which one is in every text with such a value, in lower case; none: anything.
        anywhere: to be looked for in the whole text, not only close to digits.
        long: it has `LONG_NUMBER` digits or more, and is looked for only where so many are.
    """

    entity: EntityType
    pattern: re.Pattern[str]
    alone: float = 0.0
    check: Callable[[str], bool] | None = None
    checked: float = 0.0
    near: Words | None = None
    named: float = 0.0
    both: float = 0.0
    reach: int = REACH
    marks: tuple[str, ...] = ()
    anywhere: bool = False
    long: bool = False

    def find(self, view: View) -> Iterable[Span]:
        """Values of this kind."""
        if self.marks and not any(map(view.lowered.__contains__, self.marks)):
            return ()
        return self._found(view)

    def _found(self, view: View) -> Iterator[Span]:
        group = "value" if "value" in self.pattern.groupindex else 0
        for start, end in self._parts(view):
            for match in self.pattern.finditer(view.text, start, end):
                first, last = match.span(group)
                if score := self._score(view, first, last):
                    yield Span(first, last, self.entity, score)

    def _parts(self, view: View) -> Iterable[tuple[int, int]]:
        if self.near and not self.alone and not self.checked:
            return _around(self.near, view, self.reach) if view.digit_regions else ()
        if self.anywhere:
            return ((0, len(view.text)),)
        return view.number_regions if self.long else view.digit_regions

    def _score(self, view: View, start: int, end: int) -> float:
        score, both = self.alone, 0.0
        if self.check and self.check(compact(view.text[start:end])):
            score, both = max(score, self.checked), self.both
        named = max(self.named, both)
        return named if named > score and self._is_named(view.lowered, start, end) else score

    def _is_named(self, lowered: str, start: int, end: int) -> bool:
        return self.near is not None and self.near.near(lowered, start, end, reach=self.reach)


def _around(near: Words, view: View, reach: int) -> Iterator[tuple[int, int]]:
    """The parts of a text where a value can be that these words decide on, in order."""
    start = end = 0
    for first, last in sorted(near.places(view)):
        first_char = max(0, first - reach // 3 - MAX_NAMED_CHARS)
        if first_char > end:
            if end:
                yield start, end
            start = first_char
        end = last + reach + MAX_NAMED_CHARS
    if end:
        yield start, end


def compact(value: str) -> str:
    """A value without separators, in upper case."""
    return value.translate(_SEPARATORS).upper()
