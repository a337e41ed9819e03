from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rag.parsing.document import cleaned


def test_cleaned_keeps_paragraphs_and_indentation() -> None:
    assert cleaned("a  \r\n\r\n \n\n    b\tc\u00a0d\x00\ufeff\n") == "a\n\n    b\tc d"


def test_cleaned_joins_surrogate_pairs_and_replaces_lone_ones() -> None:
    assert cleaned("\ud83d\ude00 \ud83d!") == "\U0001f600 \ufffd!"


def test_cleaned_narrows_wide_gaps() -> None:
    assert cleaned("a" + " " * 1000 + "b" + "\t" * 1000 + "c") == f"a{' ' * 16}b{chr(9) * 16}c"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_cleaned_loses_nothing_that_can_be_seen(text: str) -> None:
    seen = "".join(text.replace("\ufeff", "").split())
    assert seen == "".join(cleaned(text).split())


@given(st.text())
def test_cleaned_text_is_clean(text: str) -> None:
    once = cleaned(text)
    assert once == cleaned(once)
    assert "\x00" not in once
    once.encode()
