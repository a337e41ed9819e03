"""Postal addresses of many countries, as runs of numbers, capitalised words and what joins them.

A street is not known by its word alone: numbers beside words that are no English ones, or beside
names that a model found, make a run of such words an address, over line breaks and commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from serving.privacy.names.lexicon import Lexicon
from serving.privacy.names.tokens import Token, words
from serving.privacy.spans import Span

SCORE = 0.86
"""Above the score of two models that call a part of it a name: the whole is an address."""

_STREET = re.compile(
    r"(?:street|st|road|rd|avenue|ave|lane|ln|drive|dr|boulevard|blvd|court|ct|square|sq|place|pl"
    r"|terrace|ter|way|close|crescent|highway|hwy|parkway|pkwy|circle|cir|alley|plaza|quay|mews"
    r"|rue|via|viale|piazza|calle|c/|avenida|rua|rúa|travessa|strada|chemin|impasse|ulica|ul|utca|u"
    r"|tér|útja|weg|platz|allee|allée|gasse|tee|tn|põik|gate|vei|veg|sokak|corso|largo|camino"
    r"|paseo|rakpart|rkp|λεωφόρος|πλατεία|οδός"
    r"|\w{2,}(?:stra(?:ss|ß)e|str|weg|gasse|platz|allee|damm|gatan|gata|vägen|veien|vegen|vej|gade"
    r"|straat|laan|plein|kade|singel|tie|katu|kuja|ulice|cesta))"
)
_INSIDE = words("apt apartment suite ste unit flat floor box psc apo fpo dpo")
_JOINING = words(
    "de da do dos das del della di du des la las le les el los al of the and y e i te na pri nad"
    " pod u v im am in an der den van von zu zum sur en à t"
)
_MONTHS = words(
    "january february march april may june july august september october november december"
    " jan feb mar apr jun jul aug sep sept oct nov dec"
)
_GAP = re.compile(r"[\s,#()]*")
_SHORT = re.compile(r"(?<!\w)\w{1,4}$")
"""An abbreviation or a house number: a point behind it ends no sentence."""
_CAPITAL = r"[A-Z\u00c0-\u00de\u0100-\u024f\u0370-\u04ff]"
_CORNER = re.compile(
    r"\bthe[ ]corner[ ]of[ ](?:[\w'./-]+[ ]+){1,8}?and"
    rf"(?:[ ]+(?:{_CAPITAL}|\d)[\w'/-]*){{1,5}}"
)
_BESIDE = re.compile(rf"(?<![\w'-])(?:{_CAPITAL}[\w'-]*[ ]){{1,2}}and[ ]$")
_LONGEST_CORNER = 48
_LONGEST_NUMBER = 7
_LONGEST_SHORT_WORD = 4
_LONGEST_RUN = 96
_NEAR = 3


class AddressRules:
    """Finds addresses around known names.

    Args:
        lexicon: English words.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def find(self, text: str, tokens: Sequence[Token], named: Sequence[bool]) -> list[Span]:
        """Addresses, apart and in order.

        Args:
            text: what is looked at.
            tokens: all of it.
            named: of each token, whether it lies in a name.
        """
        found = [
            Span(run[0].start, run[-1].end, "ADDRESS", SCORE)
            for run in self._runs(text, tokens, named)
        ]
        return [*found, *_corners(text, found)]

    def _runs(
        self, text: str, tokens: Sequence[Token], named: Sequence[bool]
    ) -> Iterator[Sequence[Token]]:
        begin = 0
        for end in range(1, len(tokens) + 1):
            if (
                end < len(tokens)
                and end - begin < _LONGEST_RUN
                and self._goes_on(text, tokens[end - 1], tokens[end])
            ):
                continue
            kept = self._trimmed(text, tokens, named, begin, end)
            if self._is_address(tokens, named, kept):
                yield tokens[kept.start : kept.stop]
            begin = end

    def _goes_on(self, text: str, before: Token, token: Token) -> bool:
        """Whether two parts may belong to one address, with the text between them."""
        if not (self._may_be_in(before) and self._may_be_in(token)):
            return False
        gap = text[before.end : token.start]
        if token.text == "?":  # Some write one or several at the start of every line of an address.
            return before.text == "?" or "\n" in gap
        if before.text == "." and not _SHORT.search(
            text, max(0, before.start - _LONGEST_SHORT_WORD - 1), before.start
        ):
            return False
        return _GAP.fullmatch(gap) is not None

    def _may_be_in(self, token: Token) -> bool:
        if token.is_number:
            return len(token.text) <= _LONGEST_NUMBER
        if not token.is_word:
            return token.text in ",.#()?"
        return (
            token.is_capitalised
            or token.low in _INSIDE
            or token.low in _JOINING
            or _is_street(token)
            or not self._lexicon.knows(token.text)
        )

    def _trimmed(
        self, text: str, tokens: Sequence[Token], named: Sequence[bool], begin: int, end: int
    ) -> range:
        """The run without lines before it that are a name, and plain words at its ends."""
        begin = _first_line(text, tokens, begin, end)
        while begin < end and self._is_plain(text, tokens[begin], named=named[begin]):
            begin += 1
        while begin < end and self._is_plain(text, tokens[end - 1], named=named[end - 1]):
            end -= 1
        return range(begin, end)

    def _is_plain(self, text: str, token: Token, *, named: bool) -> bool:
        """Whether a token would stand in any sentence, or is a label."""
        if named or _tells_of_address(token):
            return False
        if not token.is_word or token.low in _JOINING or not token.is_capitalised:
            return True
        if token.text.isupper() and len(token.text) > _LONGEST_SHORT_WORD:
            return False
        return self._lexicon.knows(token.text) or text[token.end : token.end + 1] == ":"

    def _is_address(self, tokens: Sequence[Token], named: Sequence[bool], run: range) -> bool:
        """Whether a number in the run has a street or a name beside it."""
        places = [index for index in run if tokens[index].is_word or tokens[index].is_number]
        for at, index in enumerate(places):
            if not tokens[index].is_number:
                continue
            near = [*places[max(0, at - _NEAR) : at], *places[at + 1 : at + 1 + _NEAR]]
            beside = [*places[max(0, at - 1) : at], *places[at + 1 : at + 2]]
            if any(_is_street(tokens[one]) or tokens[one].low in _INSIDE for one in near):
                return True
            if any(self._is_name(tokens[one], named=named[one]) for one in beside):
                return True
        return False

    def _is_name(self, token: Token, *, named: bool) -> bool:
        if token.is_number or token.low in _MONTHS or not token.is_capitalised:
            return False
        return named or not self._lexicon.knows(token.text)


def _is_street(token: Token) -> bool:
    return _STREET.fullmatch(token.low) is not None


def _tells_of_address(token: Token) -> bool:
    return token.is_number or _is_street(token) or token.low in _INSIDE


def _first_line(text: str, tokens: Sequence[Token], begin: int, end: int) -> int:
    """Find where the address begins in a run of lines: a name may stand above it."""
    first = begin
    for index in range(begin, end):
        if index > begin and "\n" in text[tokens[index - 1].end : tokens[index].start]:
            first = index
        if _tells_of_address(tokens[index]):
            break
    else:
        return begin
    return first


def _corners(text: str, addresses: Sequence[Span]) -> Iterator[Span]:
    """Find what is no address alone: the corner of two streets, or a name beside one."""
    for found in _CORNER.finditer(text):
        yield Span(found.start(), found.end(), "ADDRESS", SCORE)
    for address in addresses:
        low = max(0, address.start - _LONGEST_CORNER)
        if before := _BESIDE.search(text, low, address.start):
            yield Span(before.start(), address.end, "ADDRESS", SCORE)
