"""Coverage and precision of detected entities."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.pii.corpus import Entity, Sentence, blocks, parsed
from benchmarks.pii.cover import CORE, cover

TEXT = "Ann Lee, 5 High St, nan 12345, paid"
PERSON = Entity("PERSON", 0, 7)
STREET = Entity("STREET_ADDRESS", 9, 29)


def figures(*spans: tuple[int, int], entities: tuple[Entity, ...] = (PERSON, STREET)) -> Any:
    return cover([Sentence(TEXT, 0, entities)], [spans])


@pytest.mark.parametrize(
    ("spans", "covered"),
    [
        ([(0, 7)], 1),
        ([(0, 3), (4, 7)], 1),  # The space between them is no letter.
        ([(0, 6)], 0),
        ([(0, 7), (9, 18), (24, 29)], 2),  # What the corpus writes for nothing need not be found.
        ([(0, 7), (9, 18), (24, 28)], 1),
        ([], 0),
    ],
)
def test_entity_is_covered_when_every_letter_and_digit_is(spans, covered):
    assert sum(figures(*spans).covered.values()) == covered


def test_precision_counts_letters_and_digits_in_any_entity():
    assert figures((0, 7)).precision == 1.0
    assert figures((0, 7), (31, 35)).precision == 6 / 10
    assert figures().precision == 1.0


def test_overlapping_spans_count_once():
    assert figures((0, 7), (0, 3)).characters == 6


def test_share_is_over_the_types_asked_for():
    half = figures((0, 7))
    assert half.share("PERSON") == 1.0
    assert half.share(*CORE) == 0.5
    assert half.share("US_SSN") == 1.0


def test_every_sentence_must_have_an_answer():
    with pytest.raises(ValueError, match="zip"):
        cover([Sentence(TEXT, 0, ())], [])


def test_halves_share_no_template():
    halves = {Sentence("", template, ()).half for template in range(0, 10, 2)}
    assert halves == {"tuned"}
    assert {Sentence("", template, ()).half for template in range(1, 10, 2)} == {"held out"}


def test_sentences_are_read_from_lines():
    line = '{"text": "Ann", "template": 3, "entities": [{"type": "PERSON", "start": 0, "end": 3}]}'
    assert parsed([line]) == [Sentence("Ann", 3, (Entity("PERSON", 0, 3),))]


def test_blocks_are_of_one_length():
    assert blocks([Sentence("abcd", 0, ()), Sentence("efg", 0, ())], characters=3) == ["abc", "d e"]
