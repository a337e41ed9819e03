"""Text that a continuation repeats is dropped, however it is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answering.resume.overlap import MAX_OVERLAP, Overlap, repeats

WORDS = st.lists(
    st.sampled_from(["ha", "to", "be", "or", "not", "a", "1", "\n", "  "]), max_size=40
)
TEXTS = st.one_of(st.text("ab .", max_size=40), WORDS.map(" ".join))


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def new(said: str, pieces: list[str]) -> str:
    overlap = Overlap(repeats(said))
    return "".join(map(overlap.feed, pieces)) + overlap.flush()


@given(TEXTS, TEXTS, st.lists(st.integers(0, 80)))
def test_overlap_is_the_same_however_it_is_cut(said: str, text: str, places: list[int]) -> None:
    assert new(said, cut(text, places)) == new(said, [text])


@given(TEXTS, TEXTS)
def test_overlap_drops_nothing_but_what_was_said(said: str, text: str) -> None:
    rest = new(said, [text])
    assert text.endswith(rest)
    assert said.endswith(text[: len(text) - len(rest)])


@given(st.text(), st.text(), st.lists(st.integers(0, 80)))
def test_overlap_of_all_that_was_said_is_dropped(said: str, rest: str, places: list[int]) -> None:
    assert len(new(said, cut(said + rest, places))) <= len(rest)


@pytest.mark.parametrize(
    ("said", "text", "rest"),
    [
        ("The cat sat on", "sat on the mat", " the mat"),
        ("The cat sat on", " sat on the mat", " the mat"),
        ("Hello wor", "world", "ld"),
        ("Hello", "Hello there", " there"),
        ("x" * 1000, "x" * 1000 + "y", "y"),
        ("Once. " * 100 + "End", "Once. " * 100 + "End.", "."),
    ],
)
def test_overlap_is_dropped(said: str, text: str, rest: str) -> None:
    assert new(said, list(text)) == rest


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("hel", "lo"),
        ("def f():\n    ", "    return 1"),
        ("The cat", "sat"),
        ("", "Hello"),
        ("Hello", ""),
    ],
)
def test_text_that_is_no_repeat_is_whole(said: str, text: str) -> None:
    assert new(said, list(text)) == text


def test_overlap_holds_back_only_what_may_be_a_repeat() -> None:
    overlap = Overlap(repeats("one two three"))
    assert [overlap.feed(piece) for piece in ("two ", "thr", "ee", " four", " two")] == [
        "", "", "", " four", " two",
    ]  # fmt: skip
    overlap = Overlap(repeats("one two three"))
    assert [overlap.feed(piece) for piece in ("two ", "thin", "gs")] == ["", "two thin", "gs"]


def test_overlap_of_an_end_is_bounded() -> None:
    assert max(map(len, repeats("word " * 1000)[1:])) <= MAX_OVERLAP
