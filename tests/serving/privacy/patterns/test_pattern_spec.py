"""Skipping patterns that cannot match does not change the results."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from serving.privacy.patterns import (
    account_numbers,
    contacts,
    credentials,
    identity_numbers,
    postcodes,
    tax_numbers,
)
from serving.privacy.patterns.normalised import LONG_NUMBER, views
from serving.privacy.patterns.pattern_spec import starting, words

MODULES = (account_numbers, contacts, credentials, identity_numbers, postcodes, tax_numbers)
LONG = [spec.pattern for module in MODULES for spec in module.SPECS if spec.long]


def least_digits(items: Any) -> int:
    """Return the least number of digits in a match of a parsed pattern."""
    return sum(_least_digits(str(operation), argument) for operation, argument in items)


def _least_digits(operation: str, argument: Any) -> int:
    match operation:
        case "LITERAL":
            return int(chr(argument).isdigit())
        case "IN":
            return int(all(_is_digit(str(kind), one) for kind, one in argument))
        case "BRANCH":
            return min(map(least_digits, argument[1]))
        case "SUBPATTERN":
            return least_digits(argument[-1])
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return int(argument[0]) * least_digits(argument[2])
        case _:
            return 0


def _is_digit(kind: str, one: Any) -> bool:
    if kind == "RANGE":
        return bool(one[0] >= ord("0") and one[1] <= ord("9"))
    return kind == "LITERAL" and chr(one).isdigit()


@pytest.mark.parametrize("pattern", [*LONG, contacts._BARE], ids=lambda one: one.pattern)
def test_long_shape_cannot_have_fewer_digits(pattern: re.Pattern[str]) -> None:
    parser = importlib.import_module("re._parser")
    assert least_digits(parser.parse(pattern.pattern, pattern.flags)) >= LONG_NUMBER


@pytest.mark.parametrize(
    ("any_case", "found"),
    [(False, ["via", "Via", "C/", "P.O"]), (True, ["via", "Via", "C/", "VIA", "p.o", "P.O"])],
)
def test_pattern_that_starts_with_alternatives_finds_each_of_them(
    any_case: bool, found: list[str]
) -> None:
    pattern = re.compile(starting("[Vv]ia", "C/", r"P\.?O", not_after=r"\w", any_case=any_case))
    text = "via Via C/ VIA p.o P.O Bolivia aC/ _P.O vi"
    assert found == pattern.findall(text)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("1 Tax", {(2, 5)}),
        ("1_tax-id", {(2, 8)}),
        ("n\u00e9e(e) 1, tax2tax\n", {(0, 3), (10, 13), (14, 17)}),
        ("A/C1", {(0, 3)}),
        ("\u7535\u8bdd\uff1a1", {(0, 2)}),
    ],
)
def test_words_are_where_they_stand_alone(text: str, places: set[tuple[int, int]]) -> None:
    (view,) = views(text)
    assert places == set(words("tax", "tax-id", "née", "a/c", "电话").places(view))


@pytest.mark.parametrize("text", ["1 taxi", "1 taxa", "1 surtax"])
def test_words_are_not_parts_of_others(text: str) -> None:
    (view,) = views(text)
    assert list(words("tax").places(view)) == []
