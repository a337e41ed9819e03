import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.pseudonyms import Pseudonyms
from serving.privacy.refusals import StillPersonal, Unread, Unscrubbable
from serving.privacy.scrubbing.rescan import rescan
from serving.privacy.spans import EntityType, Span, merged

EMAIL = re.compile(r"[\w.]+@[\w.]+")
PASSWORD = re.compile(r"password: \S+")
DIGITS = re.compile(r"\d{8}")


KINDS: list[tuple[re.Pattern[str], EntityType]] = [
    (EMAIL, "EMAIL"), (PASSWORD, "SECRET"), (DIGITS, "ACCOUNT"),
]  # fmt: skip


def find(text: str) -> list[Span]:
    return merged(
        Span(*found.span(), entity) for pattern, entity in KINDS for found in pattern.finditer(text)
    )


def scan(value: object, *known: str) -> None:
    rescan(json.dumps(value).encode(), find, frozenset(known))


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": "I am a@b.example"}]},
        {"a@b.example": 1},
        {"arguments": json.dumps({"deep": {"to": "a@b.example"}})},
        {"arguments": '{"to": "a\\u0040b.example"}'},
        {"arguments": '{"x": "{\\"to\\": \\"a\\\\u0040b.example\\"}", "x": ""}'},
        {"arguments": json.dumps({"body": '{"to": "a\\u0040b.example"}'})},
        {"content": 'The data: {"to": "a\\u0040b.example"}. Who?'},
        ["a@b.example"],
        "a@b.example",
    ],
)
def test_rescan_refuses_what_is_left(body: object) -> None:
    with pytest.raises(StillPersonal) as caught:
        scan(body)

    assert caught.value.entities == ("EMAIL",)
    assert "b.example" not in str(caught.value)


@pytest.mark.parametrize("number", [12345678, -12345678, 1234567890123456])
def test_rescan_reads_long_numbers(number: int) -> None:
    with pytest.raises(StillPersonal):
        scan({"schema": {"const": number}})


def test_rescan_reads_what_json_escapes():
    with pytest.raises(StillPersonal):
        rescan(b'{"x": "a\\u0040b.example"}', find, ())


@pytest.mark.parametrize(
    "text",
    ["ACCOUNT_12345678", "My password: SECRET_7KQ2M9XD is", "SECRET_7KQ2M9XD@ACCOUNT_12345678"],
)
def test_rescan_passes_our_own_pseudonyms(text: str) -> None:
    scan({"content": text}, "ACCOUNT_12345678", "SECRET_7KQ2M9XD")


def test_rescan_refuses_a_pseudonym_that_is_not_ours():
    with pytest.raises(StillPersonal):
        scan({"content": "ACCOUNT_12345678"}, "ACCOUNT_87654321")


def test_rescan_refuses_a_value_that_is_found_together_with_a_pseudonym():
    with pytest.raises(StillPersonal):
        scan({"content": "password: SECRET_7KQ2M9XD,a@b.example"}, "SECRET_7KQ2M9XD")


@pytest.mark.parametrize(
    "body",
    [
        {"content": "Ask 李畅."},
        {"李畅": 1},
        {"arguments": json.dumps({"to": "李畅"})},
        {"content": "Gestern traf ich sie lange im Büro."},
    ],
)
def test_rescan_refuses_what_nobody_has_read(body: object) -> None:
    with pytest.raises(Unread):
        scan(body)


def test_rescan_passes_a_language_that_may_leave():
    rescan(json.dumps({"content": "Ask 李畅."}).encode(), find, (), frozenset({"zh"}))


def test_rescan_refuses_what_is_no_json():
    with pytest.raises(Unscrubbable):
        rescan(b"{", find, ())


@given(st.text(), st.sampled_from(["EMAIL", "ACCOUNT", "SECRET"]))
def test_rescan_passes_any_pseudonym_it_is_told_of(value: str, entity: EntityType) -> None:
    pseudonyms = Pseudonyms(b"k")
    name = pseudonyms.of(value, entity)

    scan({"content": f"see {name}, please"}, *pseudonyms.issued)
