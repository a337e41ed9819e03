"""English words in any inflection are known; names mostly are not."""

from __future__ import annotations

import pytest

from tests.serving.privacy.loaded import lexicon


@pytest.mark.parametrize(
    "word",
    ["house", "Houses", "running", "better", "went", "don't", "We'll", "well-known", "email"],
)
def test_known(word: str) -> None:
    assert lexicon().knows(word)


@pytest.mark.parametrize("word", ["Kowalski", "Trpinc", "Wrocław", "O'Brien", "Jean-Luc"])
def test_unknown(word: str) -> None:
    assert not lexicon().knows(word)


@pytest.mark.parametrize(("word", "small"), [("The", True), ("iban", True), ("house", False)])
def test_small(word: str, *, small: bool) -> None:
    assert lexicon().is_small(word) is small
