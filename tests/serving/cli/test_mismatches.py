"""Messages at start about vector stores whose embedder has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli.mismatches import tell_mismatches
from serving.config import Settings, parse
from tests.serving.cli.documents_stand_in import Documents, listening

STORES = {
    "object": "list",
    "data": [
        {"id": "vs_1", "mismatch": None},
        {"id": "vs_2", "mismatch": "Another. `ringfence reembed` makes new ones."},
    ],
}


def settings(home: Path, url: str, models: tuple[str, ...] = ("all-minilm-l6-v2",)) -> Settings:
    home.mkdir(exist_ok=True)
    (home / "admin-key").write_text("rf-key")
    port = url.rpartition(":")[2]
    return parse({"models": list(models)}, {"RINGFENCE_HOME": str(home), "RINGFENCE_PORT": port})


def test_store_that_is_refused_is_told_with_what_mends_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = Documents(answers={("GET", "/admin/v1/vector_stores"): [STORES]})
    with listening(documents) as url:
        tell_mismatches(settings(home, url))
    assert capsys.readouterr().err == "ringfence: Another. `ringfence reembed` makes new ones.\n"


def test_server_that_cannot_tell_is_let_be(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(Documents()) as url:
        tell_mismatches(settings(home, url))
    assert "were not compared" in capsys.readouterr().err


def test_without_an_embedder_nothing_is_asked(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = Documents()
    with listening(documents) as url:
        tell_mismatches(settings(home, url, ("smollm2-135m-instruct",)))
    assert (documents.bodies, capsys.readouterr().err) == ([], "")
