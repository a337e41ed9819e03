"""Presidio's recognisers know identifiers of many countries, and make no connections."""

from __future__ import annotations

import pytest

from serving.privacy.spans import EntityType
from tests.serving.privacy.loaded import recognisers


def found_in(text: str) -> set[tuple[str, EntityType]]:
    return {(text[span.start : span.end], span.entity) for span in recognisers().find(text)}


@pytest.mark.parametrize(
    ("value", "entity"),
    [
        ("4111 1111 1111 1111", "CARD"),
        ("GB33BUKB20201555555555", "IBAN"),
        ("44051401359", "NATIONAL_ID"),  # Poland.
        ("12345678Z", "TAX_ID"),  # Spain.
        ("131052-308T", "NATIONAL_ID"),  # Finland.
        ("943 476 5919", "NATIONAL_ID"),  # The health service of the United Kingdom.
        ("jane@example.co.uk", "EMAIL"),
        ("+49 30 901820", "PHONE"),
        ("00:1B:44:11:3A:B7", "MAC"),
    ],
)
def test_value_is_found(value: str, entity: EntityType) -> None:
    assert (value, entity) in found_in(f"it is {value} then")


def test_weak_form_counts_after_one_of_its_words_only() -> None:
    assert ("83726451", "ACCOUNT") in found_in("my bank account is 83726451")
    assert found_in("there were 83726451 of them") == set()


def test_word_too_far_before_does_not_count() -> None:
    assert found_in("bank " + "and so on " * 7 + "83726451") == set()


def test_text_without_digits_and_signs_has_nothing() -> None:
    assert found_in("nothing to see here") == set()


def test_no_pattern_looks_at_the_rest_of_the_text_from_each_place() -> None:
    patterns = [p for one in recognisers()._asked for p in getattr(one.recogniser, "patterns", ())]
    assert len(patterns) > 40
    assert not [pattern.name for pattern in patterns if "(?=.*" in pattern.regex]
