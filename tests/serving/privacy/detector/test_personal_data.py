"""All finders together: results, order, no torch, and no connections."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from serving.privacy.detector.windows import OVERLAP, WINDOW
from serving.privacy.spans import EntityType
from tests.serving.privacy.loaded import personal_data

ROOT = Path(__file__).parents[4]

TEXT = (
    "Dear Mr. Anders Kowalski, your card 4111 1111 1111 1111 was sent to 12 Rue Victor Hugo, Lyon."
    " Write to jane.roe@example.org or call 030 901820. Project Bluebird, EMP-12345."
)


def found_in(text: str) -> dict[str, EntityType]:
    [spans] = personal_data().detect([text])
    return {text[span.start : span.end]: span.entity for span in spans}


@pytest.mark.parametrize(
    ("value", "entity"),
    [
        ("Mr. Anders Kowalski", "PERSON"),
        ("4111 1111 1111 1111", "CARD"),
        ("jane.roe@example.org", "EMAIL"),
        ("030 901820", "PHONE"),
        ("Project Bluebird", "CUSTOM"),
        ("12 Rue Victor Hugo, Lyon", "ADDRESS"),
        ("EMP-12345", "CUSTOM"),
    ],
)
def test_value_is_found_as_what_it_is(value: str, entity: EntityType) -> None:
    assert found_in(TEXT).get(value) == entity


def test_spans_are_in_order_and_apart() -> None:
    [spans] = personal_data().detect([TEXT])
    assert len(spans) > 5
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert spans[-1].end <= len(TEXT)


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_name_is_found_in_lower_case_and_in_capitals(change: object) -> None:
    text = "please tell zbigniew kowalczyk that we are late"
    text = text.upper() if change is str.upper else text
    start = text.lower().index("zbigniew")
    [spans] = personal_data().detect([text])
    assert [s for s in spans if s.start <= start and s.end >= start + len("zbigniew kowalczyk")]


def shifted(text: str, capital: int, small: int) -> str:
    """Return the text in letters of another Unicode block."""
    moved = {ord("A") + at: capital + at for at in range(26)}
    return text.translate(moved | {ord("a") + at: small + at for at in range(26)})


NAME = "Zbigniew Kowalczyk"


@pytest.mark.parametrize(
    "name",
    [
        shifted(NAME, 0xFF21, 0xFF41),
        shifted(NAME, 0x1D400, 0x1D41A),
        shifted(NAME, 0x24B6, 0x24D0),
        shifted(NAME.upper(), 0x1F150, 0),
        "\u200b".join(NAME),
        "\u0301".join(NAME),
    ],
    ids=["full-width", "mathematical", "circled", "negative circled", "zero-width", "marks"],
)
def test_name_in_disguised_letters_is_found(name: str) -> None:
    assert name in found_in(f"Please forward the contract to {name} before noon.")


def test_line_breaks_as_json_writes_them_are_line_breaks() -> None:
    assert {"Erik Mattsson", "Zofia Nowak"} <= set(found_in(r"Erik Mattsson\n\nZofia Nowak\n"))


def test_texts_have_their_own_spans() -> None:
    alone = personal_data().detect([TEXT])
    assert personal_data().detect(["", TEXT, "nothing here"]) == [[], *alone, []]


@pytest.mark.parametrize(
    "at", [0, WINDOW - OVERLAP, WINDOW - 100, WINDOW - 10, WINDOW, WINDOW + 50]
)
def test_name_at_a_cut_between_windows_is_whole(at: int) -> None:
    filler = "It was a quiet day and nobody came. "
    before = (filler * (at // len(filler) + 1))[:at]
    text = f"{before} My friend is Zbigniew Kowalczyk. {filler * 80}"
    assert any("Zbigniew Kowalczyk" in value for value in found_in(text))


def test_secret_longer_than_a_window_is_found_whole() -> None:
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADAN\n" * 250 + "-----END PRIVATE KEY-----"
    assert len(key) > WINDOW
    assert found_in(f"here it is:\n{key}\nthanks")[key] == "SECRET"


_ALONE = f"""
import json, socket, sys
tried = []
def refuse(self, address):
    tried.append(str(address))
    raise OSError("no connections here")
socket.socket.connect = socket.socket.connect_ex = refuse
def no_names(*arguments, **_):
    tried.append(str(arguments))
    raise OSError("no names here")
socket.getaddrinfo = no_names
from serving.privacy.detector.personal_data import PersonalData
found = PersonalData().detect([{TEXT!r}])[0]
heavy = sorted({{"torch", "transformers", "sentence_transformers", "ray"}} & set(sys.modules))
print(json.dumps({{"tried": tried, "heavy": heavy, "entities": [s.entity for s in found]}}))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run a process without network access, and with an empty home."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answer | {"home": [str(path) for path in home.rglob("*")], "said": [done.stderr]}


def test_nothing_is_connected_to(alone: dict[str, list[str]]) -> None:
    assert {"EMAIL", "PERSON", "PHONE"} <= set(alone["entities"])
    assert alone["tried"] == []


def test_neither_torch_nor_transformers_are_loaded(alone: dict[str, list[str]]) -> None:
    assert alone["heavy"] == []


def test_no_file_is_written_to_home(alone: dict[str, list[str]]) -> None:
    assert alone["home"] == []


def test_nothing_of_the_text_is_said(alone: dict[str, list[str]]) -> None:
    assert "Kowalski" not in alone["said"][0]
    assert "jane.roe" not in alone["said"][0]
