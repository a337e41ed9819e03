"""The lexicon: English words that are no names, from the tables of a model's lemmatiser.

The tables are WordNet's word lists (lemmas by part of speech) with irregular forms and endings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from serving.privacy.names.tokens import words
from serving.privacy.names.without_torch import without_torch

PARTS = ("noun", "verb", "adj", "adv")

_MORE = words(
    "ok okay hello hi hey dear thanks please email e-mail website app apps online info faq asap"
    " atm iban ssn vat id ids pin url urls http https www api usd eur gbp inc ltd llc plc corp co"
    " mr mrs ms dr etc vs tel fax mobile login username blog wifi usb pdf json html css sql"
)
"""Words that are too new or too short for the lists."""

_CONTRACTED = re.compile(r"(?:n['’]t|['’](?:s|ll|re|ve|d|m))$")  # noqa: RUF001  As it is written.
_BETWEEN = re.compile(r"['’.-]")  # noqa: RUF001
_REMEMBERED = 50_000
"""Words whose answer is kept; a bound, since anybody's text is asked about."""


class Lexicon:
    """Knows English words, in any inflection.

    Args:
        directory: of a spaCy model with a rule lemmatiser.
    """

    def __init__(self, directory: Path) -> None:
        with without_torch():
            from spacy.lang.en.stop_words import STOP_WORDS  # noqa: PLC0415
            from spacy.lookups import Lookups  # noqa: PLC0415

        tables = Lookups().from_disk(directory / "lemmatizer" / "lookups")
        index, irregular = tables.get_table("lemma_index"), tables.get_table("lemma_exc")
        self._rules = {
            part: tables.get_table("lemma_rules")[part] for part in ("noun", "verb", "adj")
        }
        self._words = {part: frozenset(index[part]) | frozenset(irregular[part]) for part in PARTS}
        self._seen: dict[str, bool] = {}
        self._small = frozenset(STOP_WORDS) | _MORE

    def knows(self, word: str) -> bool:
        """Whether it is an English word, or several with hyphens or an apostrophe."""
        parts = _BETWEEN.split(_CONTRACTED.sub("", word.lower()))
        return all(len(part) < 2 or self._has(part) for part in parts)

    def is_small(self, word: str) -> bool:
        """Whether it is a word that no name is made of alone: a function word, an abbreviation."""
        return word.lower() in self._small

    def _has(self, word: str) -> bool:
        if word not in self._seen:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[word] = word in self._small or any(self._is(word, part) for part in PARTS)
        return self._seen[word]

    def _is(self, word: str, part: str) -> bool:
        known = self._words[part]
        return word in known or any(form in known for form in self._lemmas(word, part))

    def _lemmas(self, word: str, part: str) -> Iterator[str]:
        for ending, lemma in self._rules.get(part, ()):
            if word.endswith(ending) and len(word) > len(ending) + 1:
                yield word[: len(word) - len(ending)] + lemma
