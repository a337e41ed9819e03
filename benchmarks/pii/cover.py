"""How much of known personal data is found, and how much of what is found is personal data.

An entity counts as covered when each of its letters and digits lies in a span, of whatever type:
anything less is a leak.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.pii.corpus import Entity, Sentence

CORE = (
    "PERSON",
    "STREET_ADDRESS",
    "GPE",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "EMAIL_ADDRESS",
    "US_SSN",
    "IBAN_CODE",
    "IP_ADDRESS",
    "ZIP_CODE",
)
"""What tells who somebody is, or where. Not: titles, ages, dates, nationalities, companies."""

_MISSING = re.compile(r"\bnan\b")
"""What the corpus writes in an address for a state that it does not know; no part of it."""

Found = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Cover:
    """Figures of one set of sentences.

    Attributes:
        known: Entities, by type.
        covered: Those of which every letter and digit was found, by type.
        characters: Letters and digits that were found.
        right: Of these, those that lie in an entity of any type.
    """

    known: Mapping[str, int]
    covered: Mapping[str, int]
    characters: int
    right: int

    def share(self, *types: str) -> float:
        """Covered entities of these types over all of them; of all types without any."""
        chosen = types or tuple(self.known)
        known = sum(self.known.get(one, 0) for one in chosen)
        return sum(self.covered.get(one, 0) for one in chosen) / known if known else 1.0

    @property
    def precision(self) -> float:
        """Of the letters and digits that were found, those that are personal data."""
        return self.right / self.characters if self.characters else 1.0


def cover(sentences: Iterable[Sentence], found: Iterable[Found]) -> Cover:
    """Compare what was found in each sentence with what is known to be there."""
    known: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    characters = right = 0
    for sentence, spans in zip(sentences, found, strict=True):
        marked = _signs(sentence.text, spans)
        gold = _signs(sentence.text, ((one.start, one.end) for one in sentence.entities))
        characters += len(marked)
        right += len(marked & gold)
        for entity in sentence.entities:
            known[entity.type] += 1
            covered[entity.type] += _of(sentence.text, entity) <= marked
    return Cover(dict(known), dict(covered), characters, right)


def _of(text: str, entity: Entity) -> set[int]:
    signs = _signs(text, [(entity.start, entity.end)])
    if entity.type == "STREET_ADDRESS":
        signs -= _signs(text, (missing.span() for missing in _MISSING.finditer(text)))
    return signs


def _signs(text: str, spans: Iterable[tuple[int, int]]) -> set[int]:
    """Places of the letters and digits in some spans."""
    return {i for start, end in spans for i in range(start, end) if text[i].isalnum()}
