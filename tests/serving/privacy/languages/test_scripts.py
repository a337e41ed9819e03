"""Scripts: words in other scripts than Latin are recognised; symbols and formulas are not words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.languages.scripts import foreign_scripts


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("for 李畅 and 佐藤さくら", {"Hani", "Hira"}),
        ("李", {"Hani"}),
        ("И. Ли", {"Cyrl"}),
        ("J\u043ehn", {"Cyrl"}),
        ("αβ", {"Grek"}),
        ("α\u200bβ", {"Grek"}),
        ("α\u0332β\u0332", {"Grek"}),
        ("\U0001d6a8\U0001d6ce", {"Grek"}),
        ("Γ ι ώ ρ γ ο ς", {"Grek"}),
        ("Γ-ι-ώ-ρ", {"Grek"}),
        ("\uff80\uff85\uff76", {"Kana"}),
        ("\u2f08\u2f3c", {"Hani"}),
        ("⠚⠕⠓⠝", {"Brai"}),
        ("\ue000\ue001", {"Zzzz"}),
        ("smile\ufe01\ufe03\ufe0a\ufe07", {"Zzzz"}),
    ],
)
def test_words_in_other_scripts_are_told(text: str, scripts: set[str]) -> None:
    assert scripts == foreign_scripts(text)


@pytest.mark.parametrize(
    "text",
    [
        "Łódź, Nguyễn, José, ʻokina, ß",
        "\uff2a\uff4f \U0001d40d \u24b6 \ufb01ne ᴊᴏʜɴ",
        "Δx = 3 µm, kΩ, π/2, σ², α–β, ∑ ∂ ∇ ℵ",
        "α, β, γ, δ, ε",
        "NF-κB, TGFβ1",
        "👩‍👩‍👧 🇩🇪 ❤️ → ✓ █ ┌─┐ \uf0b7",
        "€5 ₹7 ฿3 ﷼ № ™ ㎡ ㈱",
        "١٢٣ ४५",
    ],
)
def test_latin_signs_and_digits_are_in_no_other_script(text: str) -> None:
    assert foreign_scripts(text) == set()


LATIN = st.text(st.characters(max_codepoint=0x24F, exclude_characters="µ"))  # Which is Greek.


@given(LATIN, LATIN)
def test_word_is_told_whatever_stands_around_it(before: str, after: str) -> None:
    assert foreign_scripts(f"{before}李畅{after}") == {"Hani"}
