import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.privacy.scrubbing.pseudonym_variants import Forms
from serving.privacy.scrubbing.restore import Restorer

VALUES = {
    "PERSON_7KQ2M9XD": "John Smith",
    "PERSON_CARD7KQ2": "Card Holder",
    "PERSON_7KQ2M9XE": "Jane Roe",
    "EMAIL_00000000": "john@x.example",
    "CARD_7KQ2M9XD": "4111 1111 1111 1111",
    "NATIONAL_ID_ABCDEFGH": "078-05-1120",
    "IP_ACACACAC": "10.0.0.1",
    "MAC_ACACACAC": "00:11:22:33:44:55",
}
FORMS = Forms(VALUES)

separators = st.text(" _-*`\\\u00a0\u2011", max_size=4)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a pseudonym as a model may write it, with its value."""
    name, value = draw(st.sampled_from(list(VALUES.items())))
    words = name.split("_")
    text = words[0]
    for word in words[1:]:
        text += draw(separators) + word
    return draw(st.sampled_from([text, text.lower(), text.title(), text.swapcase()])), value


BITS = [
    "PERSON",
    "PERSON_",
    "PERSON_7KQ2",
    "M9XD",
    "_",
    "NATIONAL",
    "ID ",
    "card",
    "E",
    "",
    "ip ac",
]
noise = st.sampled_from(BITS) | st.text(max_size=8) | written().map(lambda pair: pair[0])
texts = st.lists(noise, max_size=8).map("".join)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    places = draw(st.lists(st.integers(0, len(text)), max_size=12))
    return [text[start:end] for start, end in pairwise(sorted({0, *places, len(text)}))]


def restored(pieces: list[str], *, in_json: bool = False, values: Any = None) -> str:
    restorer = Restorer(Forms(VALUES if values is None else values), in_json=in_json)
    return "".join(map(restorer.feed, pieces)) + restorer.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dear PERSON_7KQ2M9XD,", "Dear John Smith,"),
        ("person_7kq2m9xd", "John Smith"),
        ("Person 7KQ2M9XD", "John Smith"),
        ("PERSON-7KQ2M9XD", "John Smith"),
        ("PERSON7KQ2M9XD", "John Smith"),
        ("PERSON_7KQ2M9XD's", "John Smith's"),
        ("PERSON_7KQ2M9XDs", "John Smiths"),
        ("**PERSON_7KQ2M9XD**", "**John Smith**"),
        ("`PERSON_7KQ2M9XD`", "`John Smith`"),
        ("PERSON\\_7KQ2M9XD", "John Smith"),
        ("PERSON\u20117KQ2M9XD", "John Smith"),
        ("National ID abcdefgh", "078-05-1120"),
        ("NATIONAL\\_ID\\_ABCDEFGH", "078-05-1120"),
        ("PERSON_7KQ2M9XDEMAIL_00000000", "John Smithjohn@x.example"),
        ("non-PERSON_7KQ2M9XD", "non-John Smith"),
    ],
)
def test_restorer_restores(text: str, expected: str) -> None:
    assert restored([text]) == expected


@pytest.mark.parametrize(
    "text",
    [
        "PERSON_7KQ2M9XF",
        "EMAIL_7KQ2M9XD",
        "7KQ2M9XD",
        "PERSON_7KQ2M9X",
        "PERSON_\n7KQ2M9XD",
        "PER\u017fON_7KQ2M9XD",
        "PERSON______7KQ2M9XD",
        "SECRET_7KQ2M9XD",
    ],
)
def test_restorer_leaves(text: str) -> None:
    assert restored([text]) == text


def test_restorer_does_not_restore_what_a_value_holds():
    values = {"CUSTOM_00000000": "PERSON_7KQ2M9XD", "PERSON_7KQ2M9XD": "John Smith"}

    assert restored(["CUSTOM_00000000"], values=values) == "PERSON_7KQ2M9XD"


def test_restorer_without_pseudonyms_changes_nothing():
    assert restored(["PERSON_7KQ2", "M9XD"], values={}) == "PERSON_7KQ2M9XD"


@given(written(), st.text("abc "))
def test_restorer_restores_a_pseudonym_however_it_is_written(
    pair: tuple[str, str], around: str
) -> None:
    text, value = pair

    assert restored([f". {text}. {around}"]) == f". {value}. {around}"


@given(texts)
@example("PERSONCARD7KQ2M9XD")
@example("PERSON_7KQ2M9X")
def test_restorer_gives_the_same_for_single_characters_as_for_the_whole(text: str) -> None:
    assert restored(list(text)) == restored([text])


@given(st.data(), texts)
def test_restorer_gives_the_same_for_every_cutting(data: st.DataObject, text: str) -> None:
    assert restored(data.draw(cut(text))) == restored([text])


@given(st.data(), texts)
def test_restorer_holds_back_nothing_but_the_beginning_of_an_issued_form(
    data: st.DataObject, text: str
) -> None:
    restorer = Restorer(FORMS)
    for piece in data.draw(cut(text)):
        restorer.feed(piece)
        plain = re.sub(r"[ _\-*`\\\u00a0\u2010\u2011]", "", restorer.held).upper()
        names = [name.replace("_", "") for name in VALUES]
        assert not restorer.held or any(name.startswith(plain) and plain != name for name in names)


@given(st.data(), texts)
def test_restorer_holds_back_no_more_than_it_must(data: st.DataObject, text: str) -> None:
    """Output and held text together always equal the input."""
    values = {name: name for name in VALUES}
    restorer = Restorer(Forms(values))
    given = came = ""
    for piece in data.draw(cut(text)):
        came += piece
        given += restorer.feed(piece)
        assert len(restorer.held) < 32
        assert restored([came], values=values) == given + restorer.held


awkward = st.text(min_size=1) | st.sampled_from(
    ['say "hi"', "back\\slash", "two\nlines", "\U0001f600", "\u2028", "\x00", "\\u0041", '\\"']
)


def json_spelling(text: str, escaped: str) -> str:
    """Encode a JSON string in which some characters are escaped unnecessarily."""
    body = json.dumps(text)[1:-1]
    return '"' + "".join(f"\\u{ord(c):04x}" if c in escaped else c for c in body) + '"'


@given(st.data(), awkward, st.text(max_size=5), st.sampled_from(["", "_", "P", "7", "_ON9"]))
def test_restorer_keeps_json_valid_for_every_value_and_cutting(
    data: st.DataObject, value: str, around: str, escaped: str
) -> None:
    name = "PERSON_7KQ2M9XD"
    document = f'{{"k": [{json_spelling(around, "")}, '
    document += f'"{json_spelling(name, escaped)[1:-1]}{json.dumps(around)[1:-1]}"]}}'

    told = restored(data.draw(cut(document)), in_json=True, values={name: value})

    assert json.loads(told) == {"k": [around, value + around]}


@given(st.data(), texts, awkward, awkward)
def test_restorer_gives_the_same_json_for_every_cutting(
    data: st.DataObject, text: str, one: str, other: str
) -> None:
    values = {"PERSON_7KQ2M9XD": one, "CARD_7KQ2M9XD": other}
    document = json.dumps({text: [text]})

    whole = restored([document], in_json=True, values=values)

    assert restored(data.draw(cut(document)), in_json=True, values=values) == whole
    assert restored(list(document), in_json=True, values=values) == whole
    expected = restored([text], values=values)
    assert json.loads(whole) == {expected: [expected]}


@given(st.data(), st.text('\\u00e9"PERSON_7KQ2M9XDn', max_size=40))
def test_restorer_gives_the_same_for_every_cutting_of_broken_json(
    data: st.DataObject, text: str
) -> None:
    whole = restored([text], in_json=True)

    assert restored(data.draw(cut(text)), in_json=True) == whole


def test_restorer_does_not_take_the_end_of_an_escape_for_a_label():
    document = '"\\u000EMAIL_00000000"'

    assert restored([document], in_json=True) == document


def test_restorer_restores_a_pseudonym_with_markdowns_backslash_in_json():
    assert restored(['"PERSON\\\\_7KQ2M9XD"'], in_json=True) == '"John Smith"'


def test_restorer_holds_a_cut_escape_and_no_more():
    restorer = Restorer(FORMS, in_json=True)

    assert restorer.feed('{"a": "x\\u00') == '{"a": "x'
    assert restorer.held == "\\u00"
    assert restorer.feed('e9"') == '\\u00e9"'
