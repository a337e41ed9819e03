"""Phone numbers in groups of digits that no country's rules allow, but people write."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving.privacy.spans import Span

SURE = 0.6
GUESS = 0.4

_FORMS = re.compile(
    r"(?<![\w.,$€£/-])(?:"
    r"(?:\+?\d{1,4}[ .-]{0,2}(?:\(0\)[ .-]?)?)?\(?\d{1,5}\)?(?:[ .-]{1,2}\d{1,7}){1,5}"
    r"|\(\d{2,5}\)\d{4,8}"
    r"|\d{7,13}"
    r")(?![\w%€$]|[.,]\d)"
)
_WORDS = re.compile(
    r"phone|mobile|cell|call|dial|ring\b|tel\b|tel[.:]|fax|desk|reach|contact|text|message|sms"
    r"|whatsapp|answer|registered|number|extension|hotline|voicemail",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:19|20)\d\d[ .-]\d{1,2}[ .-]\d{1,2}|\d{1,2}[ .-]\d{1,2}[ .-](?:19|20)\d\d"
    r"|(?:19|20)\d\d[ -](?:19|20)\d\d|\d{1,3}(?:\.\d{1,3}){3}"
)
_IN_DOUBT = re.compile(r"\d{1,3}(?:[ .]\d{3})+|(?!1[0-3]\d{8}$)\d+(?:\.\d+)?")
"""Numbers that may be amounts. Ten digits that begin with 10 to 13 are no time in seconds of
our years, unlike most others that begin with 1."""
_WORDS_WITHIN = 48
_FEWEST_DIGITS = 6
_FEWEST_ALONE = 7
_MOST_DIGITS = 15


def phones(text: str) -> Iterator[Span]:
    """Digits in groups: after a word that speaks of phones, or where they can hardly be else.

    A plain row of digits is one after such a word only.
    """
    for found in _FORMS.finditer(text):
        digits = sum(map(str.isdigit, found[0]))
        if not _FEWEST_DIGITS <= digits <= _MOST_DIGITS or _DATE.fullmatch(found[0]):
            continue
        if _WORDS.search(text, max(0, found.start() - _WORDS_WITHIN), found.start()):
            yield Span(*found.span(), "PHONE", SURE)
        elif digits >= _FEWEST_ALONE and not _IN_DOUBT.fullmatch(found[0]):
            yield Span(*found.span(), "PHONE", GUESS)
