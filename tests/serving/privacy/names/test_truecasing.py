"""Sentences without useful case are truecased; others stay unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.names.truecasing import recased
from tests.serving.privacy.loaded import lexicon


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("please call kowalska now", "please call Kowalska now"),
        ("PLEASE CALL KOWALSKA NOW", "please call Kowalska now"),
        ("Please call kowalska now", "Please call kowalska now"),
        ("All is well. please call kowalska now.", "All is well. please call Kowalska now."),
        ("def kowalska(self): return wrzesnia_x", "def kowalska(self): return wrzesnia_x"),
        ("kowalska", "kowalska"),
        ("", ""),
    ],
)
def test_recased(text: str, expected: str) -> None:
    assert recased(text, lexicon()) == expected


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_places_are_the_same_in_any_text(text: str) -> None:
    again = recased(text, lexicon())
    assert len(again) == len(text)
    assert all(
        a.lower() == b.lower() or a.upper() == b.upper() for a, b in zip(again, text, strict=True)
    )
