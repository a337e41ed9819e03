r"""Encoded text is read as what it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.languages.decoded_text import revealed


@pytest.mark.parametrize(
    "written",
    [
        r"\u674e\u7545",
        r"\u{674e}\x{7545}",
        r"\U0000674e%u7545",
        "&#26446;&#x7545;",
        "&amp;#26446;&amp;#30021;",
        "%E6%9D%8E%E7%95%85",
        "%25E6%259D%258E%25E7%2595%2585",
        "=E6=9D=8E=E7=95=85",
        "=E6=9D=\n=8E=E7=95=85",
        r"\xe6\x9d\x8e\xe7\x95\x85",
        r"\346\235\216\347\225\205",
        "5p2O55WF",
    ],
)
def test_code_is_read_as_what_it_stands_for(written: str) -> None:
    assert revealed(f"to {written}, at noon") == "to 李畅, at noon"


@pytest.mark.parametrize(
    "text",
    [
        "Pay 50%25 of a=b&c=d; see C:\\new\\x and \\d+ or 100%",
        "airfoils binascii findings 4666666666666667 Question",
        "%FF%FE \\xff\\xfe =FF=FE \\377\\376",
        "\\u{110000} \\U000fffff",
    ],
)
def test_what_is_no_code_of_text_shows_nothing_foreign(text: str) -> None:
    assert all(char.isascii() or not char.isalpha() for char in revealed(text))


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert isinstance(revealed(text), str)
