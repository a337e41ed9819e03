"""Check digits against python-stdnum: of the ways a made-up number may end, both take the same."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import iban, luhn, numdb, verhoeff
from stdnum.au import tfn
from stdnum.br import cnpj, cpf
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.iso7064 import mod_97_10
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.us import rtn
from stdnum.za import idnr as za_id

from serving.privacy.patterns import checksums
from serving.privacy.patterns.ibans import ibans
from serving.privacy.patterns.normalised import views
from serving.privacy.spans import Span

Check = Callable[[str], bool]

_DIGIT = tuple(string.digits)
_TWO_DIGITS = tuple(map("".join, product(string.digits, repeat=2)))
_ALPHABET = string.digits + string.ascii_uppercase
_LETTER = tuple(string.ascii_uppercase)
_DATE = r"[0-9]{2}(0[0-9]|1[0-3])(0[0-9]|[12][0-9]|3[0-2])"


@dataclass(frozen=True)
class Kind:
    """Numbers that match `begins`, with each of `ends`; `never` are given by no register."""

    ours: Check
    theirs: Check
    begins: str
    ends: Sequence[str] = _DIGIT
    never: Check = lambda _number: False


def _no_routing_number(number: str) -> bool:
    return not re.match("0|1[0-2]|2[1-9]|3[0-2]|6[1-9]|7[0-2]", number)


def _all_the_same(number: str) -> bool:
    return len(set(number)) == 1


KINDS = {
    "luhn": Kind(checksums.luhn, luhn.is_valid, "[0-9]{1,20}"),
    "verhoeff": Kind(checksums.verhoeff, verhoeff.is_valid, "[0-9]{11}"),
    "MOD 97-10": Kind(
        checksums.mod_97_10,
        lambda number: mod_97_10.is_valid(number[4:] + number[:4]),
        "[A-Z]{2}[0-9]{2}[0-9A-Z]{10,29}",
        _TWO_DIGITS,
    ),
    "Germany, tax": Kind(checksums.mod_11_10, idnr.is_valid, "[0-9]{10}"),
    "Germany, tax, a digit again": Kind(
        checksums.mod_11_10,
        idnr.is_valid,
        "12345[5-9]789[0-9]|1023456777|1022345677|9876543212|1123456799",
    ),
    "United States, bank": Kind(checksums.aba, rtn.is_valid, "[0-9]{8}", never=_no_routing_number),
    "United Kingdom, health": Kind(checksums.nhs, nhs.is_valid, "[0-9]{9}"),
    "France": Kind(checksums.nir, nir.is_valid, "[12378][0-9]{12}", _TWO_DIGITS),
    "France, letters": Kind(
        checksums.nir,
        nir.is_valid,
        "[12][0-9]{4}2[AB][0-9]{6}|[12][0-9]{2}2[AB][0-9]{8}|2A[0-9]{11}|[12][0-9]{9}2B[0-9]",
        _TWO_DIGITS,
    ),
    "Spain, DNI": Kind(checksums.dni, dni.is_valid, "[0-9]{8}", _LETTER),
    "Spain, NIE": Kind(checksums.dni, nie.is_valid, "[XYZ][0-9]{7}", _LETTER),
    "Italy": Kind(
        checksums.codice_fiscale,
        codicefiscale.is_valid,
        "[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST]([04][1-9]|[1256][0-9]|[LP][1-9])[A-Z][0-9LMNP-V]{3}",
        _LETTER,
    ),
    "Poland": Kind(
        checksums.pesel, pesel.is_valid, r"[0-9]{2}([02468][0-9]|[13579][0-3])[0-3][0-9]{5}"
    ),
    "Poland, leap days": Kind(checksums.pesel, pesel.is_valid, "[0-9]{2}[02468]229[0-9]{4}"),
    "Sweden": Kind(checksums.personnummer, personnummer.is_valid, f"{_DATE}[0-9]{{3}}"),
    "Sweden, leap days": Kind(
        checksums.personnummer, personnummer.is_valid, "([0-9]{2}|(19|20)[0-9]{2})0229[0-9]{3}"
    ),
    "Australia": Kind(checksums.tfn, tfn.is_valid, "[0-9]{7,8}"),
    "Korea": Kind(
        checksums.rrn,
        rrn.is_valid,
        "[0-9]{2}(0[1-9]|1[0-3])[0-3][0-9][0-9]([0-8][0-9]|9[5-8])[0-9]{3}",
    ),
    "Thailand": Kind(checksums.thai_id, pin.is_valid, "[0-9]{12}"),
    "Turkey": Kind(checksums.kimlik, tckimlik.is_valid, "[0-9]{9}", _TWO_DIGITS),
    "South Africa": Kind(
        checksums.south_african_id, za_id.is_valid, f"{_DATE}[0-9]{{4}}[0-3][0-9]"
    ),
    "Brazil, people": Kind(
        checksums.cpf, cpf.is_valid, "[0-9]{9}", _TWO_DIGITS, never=_all_the_same
    ),
    "Brazil, firms": Kind(checksums.cnpj, cnpj.is_valid, "[0-9]{12}|0{12}|0{11}[0-9]", _TWO_DIGITS),
    "Brazil, firms, letters": Kind(
        checksums.cnpj, cnpj.is_valid, "[0-9A-Z]{8}[0-9A-Z]{4}", _TWO_DIGITS
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_checksum_takes_the_same_ends_as_stdnum(kind: Kind, data: st.DataObject) -> None:
    begin = data.draw(st.from_regex(kind.begins, fullmatch=True).filter(str.isascii))
    numbers = [begin + end for end in kind.ends]
    theirs = [number for number in numbers if kind.theirs(number) and not kind.never(number)]
    assert [number for number in numbers if kind.ours(number)] == theirs


_EXAMPLES_OF_A_COUNTRY = 4
_CLASSES = {"n": string.digits, "a": string.ascii_uppercase, "c": _ALPHABET}
_REGISTRY = numdb.get("iban")


def _account_number(country: str, source: random.Random) -> str:
    structure = _REGISTRY.info(country)[0][1]["bban"]
    account = "".join(
        source.choice(_CLASSES[kind])
        for length, kind in re.findall("([0-9]+)!([nac])", structure)
        for _ in range(int(length))
    )
    return f"{country}{mod_97_10.calc_check_digits(account + country)}{account}"


@pytest.mark.parametrize("country", sorted(prefix for _, prefix, *_ in _REGISTRY.prefixes))
def test_account_number_of_every_country_in_the_registry_checks(country: str) -> None:
    source = random.Random(country)  # noqa: S311  Text, not a secret.
    for _ in range(_EXAMPLES_OF_A_COUNTRY):
        number = _account_number(country, source)
        assert iban.is_valid(number, check_country=False)
        found = [span for view in views(number) for span in ibans(view)]
        assert Span(0, len(number), "IBAN", 1.0) in found
