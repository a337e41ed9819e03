"""Two models from packages vote on names; nothing is fetched."""

from __future__ import annotations

import pytest

from serving.privacy.names.models import BOTH_VOTES, ONE_VOTE, PACKAGES, directory_of
from tests.serving.privacy.loaded import models

TEXT = "Yesterday Barack Obama met Angela Merkel in Berlin."


def found_in(text: str, written: str | None = None) -> list[tuple[str, str, float]]:
    [spans] = models().find([text], [written or text])
    return [(text[span.start : span.end], span.entity, span.score) for span in spans]


def test_names_and_places_are_found_by_both() -> None:
    found = found_in(TEXT)
    assert ("Barack Obama", "PERSON", BOTH_VOTES) in found
    assert ("Berlin", "PLACE", BOTH_VOTES) in found


def test_what_one_model_finds_alone_counts_less() -> None:
    scores = {
        score
        for text in (TEXT, "Jean-Luc met Zé at rue de Rivoli.")
        for *_, score in found_in(text)
    }
    assert scores == {ONE_VOTE, BOTH_VOTES}


def test_each_text_has_its_own_spans() -> None:
    found = models().find(["no names here", TEXT], ["no names here", TEXT])
    assert found[0] == []
    assert found[1] == models().find([TEXT], [TEXT])[0]


def test_places_count_from_the_start_of_a_long_text() -> None:
    text = "It was a quiet day. " * 40 + TEXT
    assert ("Barack Obama", "PERSON", BOTH_VOTES) in found_in(text)


def test_text_as_it_was_written_is_looked_at_too() -> None:
    nothing = "x" * len(TEXT)
    [spans] = models().find([nothing], [TEXT])
    assert "Barack Obama" in {TEXT[span.start : span.end] for span in spans}


def test_name_ends_with_its_line() -> None:
    assert not [
        name for name, *_ in found_in("Erik Mattsson\n\nTour escort\n\nPhone:") if "\n" in name
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_model_is_a_directory_inside_its_package(package: str) -> None:
    assert (directory_of(package) / "config.cfg").is_file()
    assert package in str(directory_of(package))


@pytest.mark.parametrize("package", ["no_such_package_at_all", "serving"])
def test_package_without_a_model_is_an_error(package: str) -> None:
    with pytest.raises(LookupError, match=package):
        directory_of(package)
