"""E-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from serving.privacy.patterns.normalised import View
from serving.privacy.patterns.pattern_spec import Finder, PatternSpec, words
from serving.privacy.spans import Span

MAX_LOCAL_CHARS: Final = 256

_LABEL = r"(?:[\w-]{1,63}\.){1,8}"
_AT = re.compile(
    rf"(?:@|%40)(?:{_LABEL}(?:xn--[\w-]{{2,59}}|[^\W\d_]{{2,24}})|\[?[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}})"
)
_APART = re.compile(
    r"[ @](?<=\w.)(?:(?<= )@ ?|(?<=@) )[\w-]{1,63}(?: ?\. ?[\w-]{1,63}){0,4} ?\. ?"
    r"(?:com|org|net|edu|gov|info|biz|io|[a-z]{2})(?![\w(])"
)
_SAID = re.compile(
    r"[ \[({](?<=\w.)(?:(?<! )|(?<= )[\[({]) ?(?:at|@) ?[\])}] ?[\w-]{1,63}"
    r"(?:(?: ?[\[({] ?(?:dot|\.) ?[\])}] ?|\.)[\w-]{1,63}){1,5}",
    re.IGNORECASE,
)
_IN_LOCAL = frozenset(".+-_%'&!#$*~^")
_NOBODY: Final = "git"  # git@github.com:owner/name names a repository.

_PHONE_WORDS = words(
    "phone", "phones", "phone number", "telephone", "tel", "tel.", "tele", "call", "called",
    "calling", "mobile", "mobil", "cell", "cellphone", "fax", "whatsapp", "signal", "sms", "text",
    "dial", "ring", "reach", "contact", "hotline", "telefon", "telefonnummer", "handy",
    "handynummer", "rufnummer", "anrufen", "rückruf", "téléphone", "tél", "portable", "appeler",
    "appelez", "teléfono", "móvil", "celular", "llamar", "telefono", "cellulare", "telefone",
    "telemóvel", "telefoon", "mobiel", "komórka", "numer telefonu", "電話", "电话", "number is",
    "my number",
)  # fmt: skip
_OTHER_NUMBERS = words(
    "order", "orders", "invoice", "ticket", "case", "issue", "bug", "build", "tracking", "shipment",
    "item", "sku", "isbn", "doi", "part", "serial", "version", "revision", "timestamp", "epoch",
    "unix", "population", "bytes", "commit", "port", "error", "code", "reference", "ref",
    "transaction", "bestellung", "rechnung", "commande", "facture", "pedido", "factura",
)  # fmt: skip
# Ten digits in a row; groups as in Spain, Czechia, Denmark, Poland and Norway.
_BARE = re.compile(
    r"[1-9](?<![\w.,$\u20ac\u00a3#/=-].)(?<![0-9] .)(?:(?<![0-1])[0-9]{9}"
    r"|(?<=[5-9])[0-9]{2}(?P<sep>[ -])[0-9]{3}(?P=sep)[0-9]{3}|[0-9](?:[ -][0-9]{2}){3}"
    r"|[0-9] [0-9]{3}(?: [0-9]{2}){2}|(?<=[4-9])[0-9]{2} [0-9]{2} [0-9]{3})"
    r"(?![\w%/-])(?![.,][0-9])(?! [0-9])"
)
_EXTENSION = r"(?:[ ,;]{0,2}(?:x|ext\.?|extension|#|Durchwahl) ?[0-9]{1,6})?"
_END = "(?![0-9])(?![.,][0-9])"


def emails(view: View) -> Iterator[Span]:
    """Addresses, also with gaps around the sign or with it written out."""
    if "@" in view.text or "%40" in view.text:
        for match in _AT.finditer(view.text):
            yield from _address(view.text, match.start(), match.end(), score=1.0)
        for match in _APART.finditer(view.text):
            yield from _address(view.text, match.start(), match.end(), score=0.7)
    if _may_be_said(view):
        for match in _SAID.finditer(view.text):
            yield from _address(view.text, match.start(), match.end(), score=0.8)


def _may_be_said(view: View) -> bool:
    if "at" not in view.lowered:
        return False
    return "[" in view.text or "(" in view.text or ("{" in view.text and "dot" in view.lowered)


def _address(text: str, at: int, end: int, *, score: float) -> Iterator[Span]:
    start, least = at, max(0, at - MAX_LOCAL_CHARS)
    while start > least and (text[start - 1].isalnum() or text[start - 1] in _IN_LOCAL):
        start -= 1
    while start < at and not text[start].isalnum():
        start += 1
    if start < at and text[start:at] != _NOBODY:
        yield Span(start, end, "EMAIL", score)


def bare_phones(view: View) -> Iterator[Span]:
    """Numbers that may be anything: of a telephone unless words before them tell of another one."""
    for first, last in view.number_regions:
        for match in _BARE.finditer(view.text, first, last):
            start, end = match.span()
            if _PHONE_WORDS.near(view.lowered, start, end):
                yield Span(start, end, "PHONE", 0.8)
            elif not _OTHER_NUMBERS.before(view.lowered, start, within=24):
                yield Span(start, end, "PHONE", 0.4)


_IN_NUMBER = r"[ .\-/]{0,2}(?:[()][ .\-/]?)?[0-9]"


def _of_national_length(number: str) -> bool:
    return 9 <= sum(map(str.isdigit, number)) <= 13


SPECS: Final = (
    # International: plus and country, or 00 and country.
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            rf"\+(?<![0-9A-Za-z+].)[ (]?[0-9](?:{_IN_NUMBER}){{6,14}}(?![0-9]){_EXTENSION}"
        ),
        alone=0.9,
        long=True,
    ),
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            rf"0(?<![0-9A-Za-z.,].)0[ .\-]?[1-9](?:{_IN_NUMBER}){{7,13}}(?![0-9A-Za-z]){_EXTENSION}"
        ),
        alone=0.75,
        long=True,
    ),
    # North America, in groups.
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            r"(?<![0-9A-Za-z.])(?<![0-9][\-,])(?:(?:\+|00)?1[ .\-]?)?"
            r"(?:\([0-9]{3}\)[ .\-]{0,2}|[0-9]{3}[ .\-/]{1,2})[0-9]{3}[ .\-]{1,2}[0-9]{4}"
            rf"{_END}{_EXTENSION}"
        ),
        alone=0.75,
        long=True,
    ),
    # National, with a leading zero: in groups, or of ten or eleven digits.
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            r"[(0](?<![0-9A-Za-z.,$].)(?<![0-9][/\-].)"
            r"(?!(?<=0)[0-9]?[./\-][0-9]{1,2}[./\-](?:19|20)?[0-9]{2}(?![0-9]|[./\-][0-9]))"
            r"(?:(?<=0)|(?<=[(])0)\)?[1-9][0-9]{0,5}\)?"
            rf"[ ./\-]{{1,3}}[0-9](?:[ ./\-]{{0,2}}[0-9]){{3,10}}(?![0-9A-Za-z]){_EXTENSION}"
        ),
        check=_of_national_length,
        checked=0.65,
    ),
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(rf"0(?<![0-9A-Za-z.,$].)[1-9][0-9]{{8,9}}(?![0-9A-Za-z]){_END}"),
        alone=0.5,
        long=True,
    ),
    # Hungary, Brazil and others: the area in brackets. India; any other grouping after words.
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            r"\((?<![0-9A-Za-z].)[1-9][0-9]{1,3}\) ?[0-9]{3,5}[ \-][0-9]{3,4}"
            rf"{_END}{_EXTENSION}"
        ),
        alone=0.6,
        long=True,
    ),
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(rf"[6-9](?<![0-9A-Za-z.,].)[0-9]{{4}}[ -][0-9]{{5}}(?![A-Za-z]){_END}"),
        alone=0.65,
        long=True,
    ),
    PatternSpec(
        entity="PHONE",
        pattern=re.compile(
            rf"[0-9(](?<![0-9A-Za-z.,$].)(?:{_IN_NUMBER}){{6,14}}(?![0-9A-Za-z%]){_EXTENSION}"
        ),
        near=_PHONE_WORDS,
        named=0.6,
        reach=30,
    ),
)

FINDERS: Final[tuple[Finder, ...]] = (emails, bare_phones)
