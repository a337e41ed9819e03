"""Generated identifiers depend only on the seed, are valid, and are at the stated positions."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from benchmarks.pii.generated_identifiers import FORMS, IdentifierSample, samples

MANY = list(samples(1_000, seed=4))


def values(kind: str) -> list[str]:
    return [
        one.text[one.start : one.end] for one in MANY if (one.kind, one.form) == (kind, "plain")
    ]


def test_samples_of_a_seed_are_always_the_same() -> None:
    assert list(samples(1_000, seed=4)) == MANY
    assert list(samples(1_000, seed=5)) != MANY


def test_every_kind_is_there_as_often_and_in_every_form() -> None:
    assert set(Counter((one.kind, one.form) for one in MANY).values()) == {100}
    assert {one.form for one in MANY} == set(FORMS)


def test_cards_have_a_check_digit() -> None:
    for card in values("card"):
        digits = [int(char) for char in card if char.isdigit()]
        twice = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        assert (sum(digits[::-2]) + sum(twice)) % 10 == 0


def test_ibans_have_check_digits_and_come_from_twenty_countries() -> None:
    ibans = [iban.replace(" ", "") for iban in values("iban")]
    for iban in ibans:
        assert int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1
    countries = {
        one.text[one.start : one.start + 2]
        for one in samples(4_000, seed=1)
        if (one.kind, one.form) == ("iban", "plain")
    }
    assert len(countries) >= 20


def test_addresses_of_machines_are_some() -> None:
    assert {ip_address(address).version for address in values("ipv4")} == {4}
    assert {ip_address(address).version for address in values("ipv6")} == {6}


def test_private_keys_are_whole_blocks() -> None:
    for block in values("pem"):
        assert block.startswith("-----BEGIN ")
        assert block.endswith(" PRIVATE KEY-----")


def test_forms_differ_and_hold_the_same_letters_and_digits() -> None:
    for plain, spaced, zero_width, full_width in zip(*[iter(MANY)] * 4, strict=True):
        value = plain.text[plain.start : plain.end]
        assert spaced.text[spaced.start : spaced.end : 2] == value
        assert len(zero_width.text) == len(spaced.text)
        assert full_width.text[full_width.start] != value[0]


def test_value_is_covered_only_if_each_of_its_letters_and_digits_is() -> None:
    sample = IdentifierSample("email", "plain", "to a@b.cc now", 3, 9)
    assert sample.covered([(3, 9)])
    assert sample.covered([(0, 4), (5, 6), (7, 13)])
    assert not sample.covered([(3, 8)])
    assert not sample.covered([])
