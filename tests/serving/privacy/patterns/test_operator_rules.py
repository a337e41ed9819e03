"""An operator's patterns and words are found in any disguise, or refused with a reason."""

from __future__ import annotations

import cloudpickle  # type: ignore[import-untyped]
import pytest

from serving.privacy.patterns.operator_rules import (
    MAX_PATTERN_CHARS,
    OperatorRules,
    UnusablePatternRule,
    UnusableRule,
    UnusableWord,
)
from serving.privacy.patterns.patterns import find


def found(text: str, rules: OperatorRules) -> list[str]:
    return [text[one.start : one.end] for one in find(text, rules) if one.entity == "CUSTOM"]


def test_pattern_is_found_in_every_place_and_disguise() -> None:
    rules = OperatorRules.of({"patient": r"PT-[0-9]{5}"})
    text = "PT-12345, P\u200bT-\uff11\uff12345 and P T - 1 2 3 4 5."
    assert found(text, rules) == ["PT-12345", "P\u200bT-\uff11\uff12345", "P T - 1 2 3 4 5"]


def test_pattern_minds_the_case_it_is_written_in() -> None:
    assert found("pt-12345", OperatorRules.of({"patient": r"PT-[0-9]{5}"})) == []


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("Falcon", "the [FALCON] flew"),
        ("falcon", "f\u200balcon and falcons, [falcon]'s"),
        ("Project Falcon", "of [project\n falcon]!"),
        ("AT&T", "from [At&t] today"),
        ("@acme", "ask @[acme], not acme"),
        ("C++", "in [C++]"),
        ("\uff26alcon", "[falcon]"),
        ("\u00c9clair", "[\u00c9CLAIR], \u00e9clairs"),
        ("\u9f99\u8ba1\u5212", "\u6211\u4eec\u7684[\u9f99\u8ba1\u5212]\u5f00\u59cb"),
    ],
)
def test_word_is_found_whole_and_in_any_case(word: str, text: str) -> None:
    inside = text[text.index("[") + 1 : text.index("]")]
    rules = OperatorRules.of(words={"secret": [word]})
    plain = text.replace("[", "").replace("]", "")
    hits = found(plain, rules)
    assert inside == hits[-1]
    assert (2 if "\u200b" in text else 1) == len(hits)


def test_longest_word_is_the_one_that_is_found() -> None:
    rules = OperatorRules.of(words={"names": ["red", "red fox", "red fox den"]})
    assert found("red fox den, red fox; red", rules) == ["red fox den", "red fox", "red"]


def test_many_words_take_no_longer_than_one() -> None:
    rules = OperatorRules.of(words={"codes": [f"code{number}" for number in range(20_000)]})
    assert found("x " * 5_000 + "code19999", rules) == ["code19999"]


@pytest.mark.parametrize("text", ["(", "a" * (MAX_PATTERN_CHARS + 1), "a*", "", "(?:x|)"])
def test_pattern_that_cannot_be_used_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnusablePatternRule, match="'mine'"):
        OperatorRules.of({"mine": text})


@pytest.mark.parametrize("word", ["", " ", "\u200b", "+++", "w" * 129])
def test_word_that_cannot_be_found_is_refused_by_name(word: str) -> None:
    with pytest.raises(UnusableWord, match="'mine'"):
        OperatorRules.of(words={"mine": [word]})


def test_refusals_are_value_errors() -> None:
    assert issubclass(UnusableRule, ValueError)


def test_rules_do_not_print_the_words_they_hide() -> None:
    assert "falcon" not in repr(OperatorRules.of({"a": "falcon"}, {"b": ["falcon"]}))


def test_no_rules_find_nothing_of_their_own() -> None:
    assert found("PT-12345 falcon", OperatorRules()) == []


def test_rules_reach_another_process_whole() -> None:
    rules = OperatorRules.of({"patient": r"\bPT-\w{5}"}, {"secret": ["falcon", "\u9f99\u8ba1"]})
    there = cloudpickle.loads(cloudpickle.dumps(rules))
    assert found("PT-12345 falcon \u9f99\u8ba1", there) == ["PT-12345", "falcon", "\u9f99\u8ba1"]
