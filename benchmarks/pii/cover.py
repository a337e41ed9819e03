"""Recall and precision of detected personal data.

An entity is covered if a span of any type contains each of its letters and digits; anything less
is a leak.
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
"""Types that identify or locate a person. Titles, ages, dates, nations and companies do not."""

_MISSING = re.compile(r"\bnan\b")
"""The corpus writes this for an unknown state in an address; it is not part of the address."""

Found = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Cover:
    """Counts over a set of sentences.

    Attributes:
        known: Number of entities by type.
        covered: Number of covered entities by type.
        characters: Number of detected letters and digits.
        right: Number of these that lie in an entity of any type.
    """

    known: Mapping[str, int]
    covered: Mapping[str, int]
    characters: int
    right: int

    def share(self, *types: str) -> float:
        """Return the share of covered entities of these types, or of all types if none is given."""
        chosen = types or tuple(self.known)
        known = sum(self.known.get(one, 0) for one in chosen)
        return sum(self.covered.get(one, 0) for one in chosen) / known if known else 1.0

    @property
    def precision(self) -> float:
        """The share of detected letters and digits that are personal data."""
        return self.right / self.characters if self.characters else 1.0


def cover(sentences: Iterable[Sentence], found: Iterable[Found]) -> Cover:
    """Compare detected spans with the annotations of each sentence."""
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
    """Return the positions of letters and digits in the spans."""
    return {i for start, end in spans for i in range(start, end) if text[i].isalnum()}
