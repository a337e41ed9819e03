"""Payment cards, with and without separators: prefix, length, grouping and check digit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from serving.privacy.patterns import checksums
from serving.privacy.patterns.normalised import View
from serving.privacy.patterns.pattern_spec import words
from serving.privacy.spans import Span

MIN_DIGITS: Final = 12
MAX_DIGITS: Final = 19

_CHECKED: Final = 1.0
_NAMED: Final = 0.8
_LIKE_A_CARD: Final = 0.7

# Not behind the groups of a UUID, nor a fraction.
_RUN = re.compile(
    r"[0-9](?<![A-Za-z0-9].)(?<![0-9a-f]{4}-.)(?<![0-9][.,].)[0-9]{1,18}+(?![A-Za-z0-9])"
    r"(?:[ .\-_/]{1,3}[0-9]{1,19}+(?![A-Za-z0-9]))*+"
)
_GROUP = re.compile("[0-9]+")
_BRANDS = re.compile(
    "4(?:.{12}|.{15}|.{18})"  # Visa
    "|(?:5[1-5]|2[2-7]).{14}"  # Mastercard, Mir
    "|3[47].{13}"  # American Express
    "|3(?:0[0-5]|[689]).{11,16}"  # Diners Club
    "|35(?:2[89]|[3-8]).{12,15}|(?:2131|1800).{11}"  # JCB
    "|(?:5[06-8]|6.).{10,17}"  # Maestro, Discover, UnionPay, RuPay, Elo
    "|(?:8[12]|97).{14}"  # RuPay, Troy
)
_MAJOR_BRANDS = re.compile("4.{15}|(?:5[1-5]|2[2-7]|6[0245]).{14}|3[47].{13}|35.{14}")
_FIRST_DIGITS = "2345689"  # Of brands.
_LAYOUTS = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3)}
)
_IN_ODD_GROUPS = frozenset({13, 14, 15, 16, 19})  # Digits.
_FOUR_FIRST = _IN_ODD_GROUPS | frozenset(map(sum, _LAYOUTS))  # Digits, in groups like 4-6-5 too.
_WORDS = words(
    "card", "credit card", "debit card", "card number", "visa", "mastercard", "maestro", "amex",
    "american express", "discover", "diners", "jcb", "unionpay", "pan", "kreditkarte",
    "kartennummer", "carte", "carte bancaire", "tarjeta", "carta di credito", "cartão", "karta",
)  # fmt: skip


def cards(view: View) -> Iterator[Span]:
    """Card numbers. The check digit raises a score, and decides where nothing else does."""
    for run in _RUN.finditer(view.text):
        if run.end() - run.start() >= MIN_DIGITS:
            groups = [group.span() for group in _GROUP.finditer(view.text, *run.span())]
            yield from _in_groups(view, groups)


def _in_groups(view: View, groups: Sequence[tuple[int, int]]) -> Iterator[Span]:
    at = 0
    while at < len(groups):
        start, end = groups[at]
        size, score = 1, 0.0
        if end - start >= 4 or (end - start > 1 and view.text[start] in _FIRST_DIGITS):
            size, score = _best(view, groups[at : at + MAX_DIGITS // 2])
        if score:
            yield Span(start, groups[at + size - 1][1], "CARD", score)
        at += size


def _best(view: View, groups: Sequence[tuple[int, int]]) -> tuple[int, float]:
    """Return how many of these groups form a card, and its score; 1 and 0 if none does."""
    best, number = (1, 0.0), ""
    lengths = _FOUR_FIRST if groups[0][1] - groups[0][0] == 4 else _IN_ODD_GROUPS
    for size, (start, end) in enumerate(groups, start=1):
        number += view.text[start:end]
        digits = len(number)
        if digits > MAX_DIGITS:
            break
        if digits in lengths or (size == 1 and digits >= MIN_DIGITS):
            score = _score(view, number, groups[:size])
            best = (size, score) if score and score >= best[1] else best
    return best


def _score(view: View, number: str, groups: Sequence[tuple[int, int]]) -> float:
    first = groups[0][1] - groups[0][0]
    grouped = first == 4 and tuple(end - start for start, end in groups) in _LAYOUTS
    whole = len(groups) == 1
    if not (grouped or whole or len(number) in _IN_ODD_GROUPS):
        return 0.0
    branded = _BRANDS.fullmatch(number) is not None
    if (grouped or branded) and checksums.luhn(number):
        return _CHECKED
    if grouped or (whole and _MAJOR_BRANDS.fullmatch(number)):
        return _LIKE_A_CARD
    named = whole or (branded and first >= 3)
    if named and _WORDS.near(view.lowered, groups[0][0], groups[-1][1]):
        return _NAMED
    return 0.0
