"""An operator's own patterns and words for personal data."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from serving.domain.operator_pattern import OperatorPattern, UnusablePattern
from serving.privacy.patterns.normalised import View, folded
from serving.privacy.spans import Span

MAX_PATTERN_CHARS: Final = 512
MAX_WORD_CHARS: Final = 128

_SCORE: Final = 1.0
_TOKEN = re.compile(r"\w+")
_NO_PATTERNS: Mapping[str, str] = MappingProxyType({})
_NO_WORDS: Mapping[str, Sequence[str]] = MappingProxyType({})


class UnusableRule(ValueError):
    """An operator's rule that cannot be applied; the message names it."""


class UnusablePatternRule(UnusableRule):
    """A regular expression that is too long, does not compile, or matches nothing at all."""


class UnusableWord(UnusableRule):
    """A word that is too long or has neither letter nor digit."""


@dataclass(frozen=True, slots=True)
class OperatorRules:
    """Patterns and words, ready to be looked for. Made by `of`; the bare one has none.

    Args:
        patterns: by name.
        unspaced: words of scripts that do not part words, matched anywhere.
        words: from the first token of words to the pattern of all that begin with it.
    """

    patterns: Mapping[str, OperatorPattern] = field(default_factory=dict, repr=False)
    unspaced: Sequence[re.Pattern[str]] = field(default=(), repr=False)
    words: Mapping[str, re.Pattern[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        patterns: Mapping[str, str] = _NO_PATTERNS,
        words: Mapping[str, Sequence[str]] = _NO_WORDS,
    ) -> Self:
        """Compile them.

        Args:
            patterns: regular expressions by name; matched as written, case counts.
            words: dictionaries by name; matched whole and in any case. Words of scripts that do
                not part words, such as Chinese, are matched anywhere.

        Raises:
            UnusablePatternRule, UnusableWord: one of them.
        """
        compiled = {name: _compiled(name, text) for name, text in patterns.items()}
        unspaced: list[re.Pattern[str]] = []
        beginning: defaultdict[str, list[str]] = defaultdict(list)
        for name, those in words.items():
            for word in those:
                plain = _plain(name, word)
                if _is_unspaced(plain):
                    unspaced.append(re.compile(re.escape(plain)))
                else:
                    beginning[_TOKEN.findall(plain)[0]].append(plain)
        indexed = {token: _any_of(token, those) for token, those in beginning.items()}
        return cls(MappingProxyType(compiled), tuple(unspaced), MappingProxyType(indexed))

    def find(self, view: View) -> Iterator[Span]:
        """Find their matches in a view, of type CUSTOM."""
        for pattern in self.patterns.values():
            for start, end in pattern.find(view.text):
                yield Span(start, end, "CUSTOM", _SCORE)
        for word in self.unspaced:
            for match in word.finditer(view.text):
                yield Span(*match.span(), "CUSTOM", _SCORE)
        for token in _TOKEN.finditer(view.lowered) if self.words else ():
            words = self.words.get(token[0])
            if words and (known := words.match(view.lowered, token.start())):
                yield Span(*known.span(), "CUSTOM", _SCORE)


def _compiled(name: str, text: str) -> OperatorPattern:
    if len(text) > MAX_PATTERN_CHARS:
        raise UnusablePatternRule(
            f"The pattern {name!r} has {len(text)} characters; {MAX_PATTERN_CHARS} are the most."
        )
    try:
        return OperatorPattern(text)
    except UnusablePattern as error:
        raise UnusablePatternRule(f"The pattern {name!r} {error}.") from None


def _plain(name: str, word: str) -> str:
    """A word as views have it."""
    plain = " ".join(folded(word).lower().split())
    if len(plain) > MAX_WORD_CHARS:
        raise UnusableWord(
            f"A word of {name!r} has {len(plain)} characters; {MAX_WORD_CHARS} are the most."
        )
    if not _TOKEN.search(plain):
        raise UnusableWord(f"{word!r} of {name!r} has neither letter nor digit.")
    return plain


def _is_unspaced(plain: str) -> bool:
    return any(unicodedata.category(char) == "Lo" for char in plain)


def _any_of(token: str, words: Sequence[str]) -> re.Pattern[str]:
    """Any of these words, where a text has their first token; the longest that is there."""
    longest = sorted(set(words), key=len, reverse=True)
    return re.compile("|".join(_from_token(token, word) for word in longest))


def _from_token(token: str, word: str) -> str:
    before, _, rest = word.partition(token)
    spaced = r"\s+".join(re.escape(part) for part in (token + rest).split())
    end = r"(?!\w)" if re.search(r"\w\Z", word) else ""
    return (f"(?<={re.escape(before)})" if before else "") + spaced + end
