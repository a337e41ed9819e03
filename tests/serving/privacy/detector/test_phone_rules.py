"""Phone numbers in groups that no country's rules define, but people write."""

from __future__ import annotations

import pytest

from serving.privacy.detector.phone_rules import phones


def found_in(text: str) -> list[str]:
    return [text[span.start : span.end] for span in phones(text)]


@pytest.mark.parametrize(
    "number",
    ["439 4166", "87 47 98", "96 466712", "729 198 216", "(1) 995-8140", "(07700)553419",
     "21 234 614 7794", "20-33-70-48", "+41 (0)42 491 27 11", "1322342321"],
)  # fmt: skip
def test_number_after_a_word_that_speaks_of_phones(number: str) -> None:
    assert found_in(f"Please call me at {number}.") == [number]


@pytest.mark.parametrize("number", ["439 4166", "(1) 995-8140", "21 234 614 7794", "1322342321"])
def test_number_that_can_hardly_be_else(number: str) -> None:
    assert found_in(f"It is {number} then") == [number]


@pytest.mark.parametrize(
    "text",
    ["1 000 000 people", "on 2024-11-25", "25.11.2024", "in 2019 2020", "1732500000",
     "10.0.0.1", "3.14159265", "12 50", "$1 234 567", "version 1.22.333"],
)  # fmt: skip
def test_other_numbers(text: str) -> None:
    assert found_in(text) == []
