"""Names beside what the models find: unknown words with a capital, introductions, whole names.

A capitalised word that no list of English words has is a name more often than not. A name goes on
over the capitalised words, particles, titles and initials that adjoin it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from serving.privacy.names.address_rules import AddressRules
from serving.privacy.names.countries import COUNTRY
from serving.privacy.names.lexicon import Lexicon
from serving.privacy.names.models import BOTH_VOTES
from serving.privacy.names.tokens import WORD, Token, tokens_of, words
from serving.privacy.spans import Span

GUESS = 0.4
RULE = 0.55

_PARTICLES = words(
    "de da do dos das del della di du des la las le les el al bin ibn van von der den ter ten te zu"
    " af av nad pod pri in d l"
)
_TITLE = re.compile(
    r"(?:\b(?:mr|mrs|ms|miss|mx|dr|prof|professor|sir|madam|herr|frau|mme|sr|sra|señora?)\.?\s+)+$",
    re.IGNORECASE,
)
_AFTER_NAME = re.compile(
    r"(?:,?\s(?:jr|sr|ii|iii|iv|ph\.?d|m\.?d|dds|dvm|esq|cpa)\b\.?)+", re.IGNORECASE
)
_INTRODUCED = re.compile(
    r"\b(?:my\s+na?me?\s+is|(?:first|last|full|maiden|sur)\s*name(?:\s+is|:)|^\s*name:)\s+",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT = re.compile(rf"({WORD})(?:[ ](?=[^\W\d_])|(?=\W|$))")
_TITLED = re.compile(
    rf"\b(?:mr|mrs|ms|mx|dr|prof|herr|frau|mme|madame|señora?)\b\.?\s+({WORD})", re.IGNORECASE
)
_WORD = re.compile(WORD)
_CAMEL = re.compile(r"[a-z][A-Z]")
_CAMEL_NAME = re.compile(r"(?:Mac|Mc|De|Di|Du|La|Le|Van|Fitz|Ó|Ni)[A-Z][a-z]+(?:['’-]|$)")  # noqa: RUF001
_CODE = re.compile(r"[_=|<>{}\[\]]|\w\(|::|//|\w\w\.\w\w+\.\w\w")
_IN_CODE = frozenset("_`$<{=@\\")
_LONGEST_ACRONYM = 5
_LONGEST_TITLES = 24
_MOST_WORDS = 4


class NameRules:
    """Rules for names and addresses.

    Args:
        lexicon: English words.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._addresses = AddressRules(lexicon)

    def find(self, text: str, names: Iterable[Span]) -> list[Span]:
        """`names`, and what the rules find beside them; spans may overlap."""
        tokens = tokens_of(text)
        found = [
            *(name for name in names if self._is_likely(text[name.start : name.end], name)),
            *self._introduced(text),
            *self._unknown(text, tokens),
        ]
        found += self._grown(text, tokens, _inside(text, found, tokens))
        return [*found, *self._addresses.find(text, tokens, _inside(text, found, tokens))]

    def _introduced(self, text: str) -> Iterator[Span]:
        """Names after "my name is" in any case, after a title, and countries."""
        for found in _INTRODUCED.finditer(text):
            begin = end = following = found.end()
            for word in islice(_NEXT.finditer(text, begin), _MOST_WORDS):
                if word.start() != following or self._lexicon.is_small(word[1]):
                    break
                end, following = word.end(1), word.end()
            yield Span(begin, end, "PERSON", RULE)
        for found in _TITLED.finditer(text):
            yield Span(*found.span(1), "PERSON", RULE)
        for found in COUNTRY.finditer(text):
            yield Span(*found.span(), "PLACE", RULE)

    def _is_likely(self, name: str, span: Span) -> bool:
        """Whether to believe the models: not in code, nor one alone in firms of plain words."""
        if _CODE.search(name):
            return False
        known = self._lexicon.is_small
        if span.entity == "ORGANISATION" and span.score < BOTH_VOTES:
            known = self._lexicon.knows
        return not all(known(found[0]) for found in _WORD.finditer(name))

    def _unknown(self, text: str, tokens: Iterable[Token]) -> Iterator[Span]:
        for token in tokens:
            if token.is_word and token.is_capitalised and self._is_unknown(token.text):
                around = (
                    text[max(0, token.start - 1) : token.start] + text[token.end : token.end + 1]
                )
                if not _IN_CODE & set(around):
                    yield Span(token.start, token.end, "PERSON", GUESS)

    def _is_unknown(self, word: str) -> bool:
        if word.isupper() and word.isascii() and len(word) <= _LONGEST_ACRONYM:
            return False
        if _CAMEL.search(word) and not _CAMEL_NAME.match(word):
            return False
        return not self._lexicon.knows(word)

    def _grown(self, text: str, tokens: Sequence[Token], named: Sequence[bool]) -> Iterator[Span]:
        """Names made whole."""
        index = 0
        while index < len(tokens):
            if not named[index]:
                index += 1
                continue
            first, last = self._first(text, tokens, index), _last(text, tokens, named, index)
            start, end = tokens[first].start, tokens[last].end
            if title := _TITLE.search(text, max(0, start - _LONGEST_TITLES), start):
                start = title.start()
            if after := _AFTER_NAME.match(text, end):
                end = after.end()
            yield Span(start, end, "PERSON", GUESS)
            index = last + 1

    def _first(self, text: str, tokens: Sequence[Token], index: int) -> int:
        """The first token of the name that goes on at `index`.

        An English word with a capital belongs to it where no sentence begins with it.
        """
        first = index
        while first > 0 and _adjoins(text, tokens[first - 1], tokens[first]):
            before = tokens[first - 1]
            inside = (
                first > 1 and tokens[first - 2].is_word and not tokens[first - 2].is_capitalised
            )
            named = before.is_capitalised and (inside or self._is_rare(before.text))
            if not named and before.text != ".":
                break
            first -= 1
        return first

    def _is_rare(self, word: str) -> bool:
        return len(word) == 1 or not self._lexicon.knows(word)


def _last(text: str, tokens: Sequence[Token], named: Sequence[bool], index: int) -> int:
    """The last token of the name that is at `index`."""
    last = index
    for place in range(index + 1, len(tokens)):
        token, before = tokens[place], tokens[place - 1]
        if named[place] and "\n" not in text[before.end : token.start] and named[place - 1]:
            last = place
        elif not _adjoins(text, before, token):
            break
        elif token.is_capitalised and token.is_word:
            last = place
        elif token.text != "." and token.low not in _PARTICLES:
            break
    return last


def _adjoins(text: str, first: Token, second: Token) -> bool:
    """Whether only a space is between two words, or a point after an initial."""
    gap = text[first.end : second.start]
    if second.text == ".":
        return gap == "" and len(first.text) == 1 and first.is_capitalised
    if first.text == ".":
        initial = text[max(0, first.start - 2) : first.start].strip()
        return gap == " " and len(initial) == 1 and initial.isupper()
    return first.is_word and gap in (" ", "  ")


def _inside(text: str, spans: Iterable[Span], tokens: Sequence[Token]) -> list[bool]:
    covered = bytearray(len(text))
    for span in spans:
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    return [any(covered[token.start : token.end]) for token in tokens]
