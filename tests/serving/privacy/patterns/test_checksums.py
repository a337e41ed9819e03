"""Check digits: published examples are valid, and no other last digit is."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.patterns import checksums

Check = Callable[[str], bool]

EXAMPLES: list[tuple[Check, str]] = [
    (checksums.luhn, "4111111111111111"),
    (checksums.luhn, "046454286"),
    (checksums.mod_97_10, "DE89370400440532013000"),
    (checksums.mod_97_10, "GB29NWBK60161331926819"),
    (checksums.mod_11_10, "86095742719"),
    (checksums.verhoeff, "234123412346"),
    (checksums.aba, "021000021"),
    (checksums.nhs, "9434765919"),
    (checksums.nir, "255081416802538"),
    (checksums.dni, "12345678Z"),
    (checksums.dni, "X1234567L"),
    (checksums.codice_fiscale, "RSSMRA85T10A562S"),
    (checksums.pesel, "44051401359"),
    (checksums.personnummer, "8112189876"),
    (checksums.personnummer, "198112189876"),
    (checksums.tfn, "123456782"),
    (checksums.cpf, "52998224725"),
    (checksums.cnpj, "11222333000181"),
    (checksums.cnpj, "12ABC34501DE35"),
]
CHECKS = sorted({check for check, _ in EXAMPLES}, key=lambda check: check.__name__)


@pytest.mark.parametrize(("check", "number"), EXAMPLES)
def test_checksum_holds_for_a_published_number_and_for_no_other_end(
    check: Check, number: str
) -> None:
    alphabet = string.digits if number[-1].isdigit() else string.ascii_uppercase
    same = [char for char in alphabet if check(number[:-1] + char)]
    assert same == [number[-1]]


@pytest.mark.parametrize("check", CHECKS)
@given(text=st.text(max_size=24))
def test_checksum_of_any_text_is_an_answer_and_no_error(check: Check, text: str) -> None:
    assert check(text.upper()) in {True, False}


@pytest.mark.parametrize(
    ("check", "number"),
    [
        (checksums.cpf, "11111111111"),
        (checksums.pesel, "44131401359"),
        (checksums.mod_11_10, "01234567890"),
        (checksums.aba, "999999992"),
    ],
)
def test_checksum_refuses_numbers_that_are_never_given(check: Check, number: str) -> None:
    assert not check(number)


@pytest.mark.parametrize(
    ("number", "right"), [("311299", True), ("991231", True), ("999999", False)]
)
def test_date_of_six_digits_has_its_day_or_its_year_first(number: str, right: bool) -> None:
    assert right == checksums.dated(number)
