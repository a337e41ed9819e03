"""Views of a text in which disguised writing is plain: what patterns and models look at.

Zero-width marks are gone, full-width forms, foreign digits and look-alike letters are the plain
ones (NFKC, and a small table), and letters that stand apart are together. Knows no patterns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from serving.privacy.spans import Span

DIGIT_GAP: Final = 8
"""Digits no further apart than this form one region; the region reaches as far around them."""

LONG_NUMBER: Final = 7
"""Digits that identifying numbers have at least; years, times, prices and pages have fewer."""

MAX_FOLDS: Final = 16_384
"""Code points whose plain form is remembered."""

_DIGIT = re.compile("[0-9]")
_DIGITS = re.compile(rf"[0-9](?:[^0-9]{{0,{DIGIT_GAP}}}+[0-9])*+")
_SPACED_MARK = re.compile(r"[ \t][^\s][ \t]{1,2}[^\s][ \t]{1,2}[^\s](?!\w)")
_SPACED = re.compile(r"(?<!\w)\S(?:[ \t]{1,2}\S|\s{3,5}\S){4,}(?!\w)")
_GAP = re.compile(r"\s+")
_ESCAPE = re.compile(r"\\[nrt](?=\w)")
_ARTICLE = re.compile(r"[AaIiYyOoEe][ \t]")
_LETTERS = re.compile(r"[^\W\d_]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")

_DROPPED_CATEGORIES = frozenset({"Cf", "Mn", "Me"})
_DROPPED = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # Letters that show nothing.
_STYLED = re.compile(
    r"(?:LATIN LETTER SMALL CAPITAL|(?:NEGATIVE )?(?:CIRCLED|SQUARED) LATIN CAPITAL LETTER) ([A-Z])"
)
_TAGS = range(0xE0020, 0xE007F)  # ASCII that nobody sees, once more.
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u30fc"
# What NFKC leaves as it is, of the confusables of Unicode Technical Standard 39.
_LOOK_ALIKES = str.maketrans(
    "\u0410\u0412\u0415\u0417\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0405\u0422\u0425"
    "\u0430\u0435\u0456\u0458\u043e\u0440\u0441\u0455\u0445\u0443\u04bb\u0501\u051b\u051d\u0391"
    "\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03b1\u03bd"
    "\u03bf\u03c1\u0131\u0130\u3002\u2024\u2044\u2215\u2028\u2029\u2236\ua789" + _DASHES,
    "ABE3IJKMHOPCSTXaeijopcsxyhdqwABEZHIKMNOPTYXavopiI..//\n\n::" + "-" * len(_DASHES),
)


@dataclass(frozen=True, slots=True)
class Folded:
    """A text to look at, and where each of its code points came from.

    Args:
        text: with plain letters.
        original: what it was made from.
        origins: offset in the original of each code point; None where it is the original itself.
    """

    text: str = field(repr=False)
    original: str = field(repr=False)
    origins: Sequence[int] | None = field(repr=False)

    def in_original(self, span: Span) -> Span:
        """Return the original of a part of this text, with all its marks."""
        if self.origins is None:
            return span
        start, end = self.origins[span.start], self.origins[span.end - 1] + 1
        while end < len(self.original) and not _plain(self.original[end]):
            end += 1
        return replace(span, start=start, end=end)


@dataclass(frozen=True, slots=True)
class View(Folded):
    """A text as patterns look at it: digits are ASCII, and lower-casing it keeps every offset.

    Args:
        lowered: the text in lower case.
        digit_regions: parts of the text, in order, outside of which there is no digit.
        number_regions: of these, those with `LONG_NUMBER` digits or more.
        words: letters that stand together, in lower case; of a text without a digit, none.
    """

    lowered: str = field(repr=False)
    digit_regions: tuple[tuple[int, int], ...]
    number_regions: tuple[tuple[int, int], ...]
    words: frozenset[str] = field(repr=False)


def folded(text: str) -> str:
    """Full-width, foreign and look-alike forms as plain ones; marks without a width are gone."""
    return _NOT_ASCII.sub(lambda run: run[0].translate(_FOLDS), text)


def with_plain_letters(text: str) -> Folded:
    """The text as models look at it: letters and digits are plain, and all else is as it was."""
    if text.isascii():
        return Folded(text, text, None)
    plain = list(map(_plain_letter, text))
    origins = [offset for offset, letters in enumerate(plain) for _ in letters]
    return Folded("".join(plain), text, origins)


def views(text: str) -> list[View]:
    """The folded text, and more of it where it can be read in more than one way.

    Where letters stand apart, these put together; a one-letter word before such letters may be one
    of them or not: then there is a view of each. Where line breaks are escaped, they are blanks.
    """
    plain_text = folded(text)
    origins = None if plain_text == text else _origins(text)
    plain = _view(plain_text, text, origins)
    found = [plain]
    if _SPACED_MARK.search(plain.text):
        runs = tuple(match.span() for match in _SPACED.finditer(plain.text))
        apart = tuple(_past_article(plain.text, *run) for run in runs)
        found += [_joined(plain, choice) for choice in dict.fromkeys((runs, apart)) if choice]
    if _ESCAPE.search(plain.text):
        found.append(_view(_ESCAPE.sub("  ", plain.text), text, origins))
    return found


def _plain(char: str) -> str:
    return char if char.isascii() else _FOLDS[ord(char)]


def _plain_letter(char: str) -> str:
    """A letter or digit as a plain one; nothing for a mark without a width; else the same."""
    plain = _plain(char)
    if not plain:
        return ""
    is_one = len(plain) == 1 or char.isalpha()  # A sign such as the one for a trade mark stays.
    return plain if is_one and plain.isascii() and plain.isalnum() else char


class _Folds(dict[int, str]):
    """Caches what each code point is folded to."""

    def __missing__(self, code: int) -> str:
        plain = _fold(chr(code))
        if len(self) < MAX_FOLDS:
            self[code] = plain
        return plain


_FOLDS = _Folds()


def _fold(char: str) -> str:
    if ord(char) in _TAGS:
        return chr(ord(char) - 0xE0000)
    if styled := _STYLED.fullmatch(unicodedata.name(char, "")):
        return styled[1]
    plain = unicodedata.normalize("NFKC", char.translate(_LOOK_ALIKES)).translate(_LOOK_ALIKES)
    return "".join(map(_digit, filter(_shows, plain)))


def _digit(char: str) -> str:
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


def _shows(char: str) -> bool:
    return unicodedata.category(char) not in _DROPPED_CATEGORIES and char not in _DROPPED


def _origins(text: str) -> list[int]:
    origins: list[int] = []
    end = 0
    for run in _NOT_ASCII.finditer(text):
        origins += range(end, run.start())
        for offset in range(*run.span()):
            origins += [offset] * len(_plain(text[offset]))
        end = run.end()
    return [*origins, *range(end, len(text))]


def _view(text: str, original: str, origins: Sequence[int] | None) -> View:
    regions: list[tuple[int, int]] = []
    for match in _DIGITS.finditer(text):
        start, end = max(0, match.start() - DIGIT_GAP), match.end() + DIGIT_GAP
        if regions and start <= regions[-1][1]:
            start = regions.pop()[0]
        regions.append((start, min(end, len(text))))
    lowered = text.lower()
    words = frozenset(_LETTERS.findall(lowered)) if regions else frozenset()
    numbers = tuple(region for region in regions if _has_long_number(text, *region))
    return View(text, original, origins, lowered, tuple(regions), numbers, words)


def _has_long_number(text: str, start: int, end: int) -> bool:
    return len(_DIGIT.findall(text, start, end)) >= LONG_NUMBER


def _past_article(text: str, start: int, end: int) -> tuple[int, int]:
    return (start + 2, end) if _ARTICLE.match(text, start) else (start, end)


def _joined(view: View, runs: Sequence[tuple[int, int]]) -> View:
    """Remove the gaps in these runs; a wide gap is a space or a line break between two gaps."""
    dropped: set[int] = set()
    for run in runs:
        for gap in _GAP.finditer(view.text, *run):
            dropped.update(range(*gap.span()))
            if gap.end() - gap.start() >= 3:
                dropped.remove((gap.start() + gap.end()) // 2)
    kept = [offset for offset in range(len(view.text)) if offset not in dropped]
    origins = kept if view.origins is None else [view.origins[offset] for offset in kept]
    return _view("".join(map(view.text.__getitem__, kept)), view.original, origins)
