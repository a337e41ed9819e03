"""The whole evaluation on a small corpus, with real detection in its own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pii import command as pii
from benchmarks.pii.corpus import generate
from benchmarks.pii.detection import detecting
from benchmarks.pii.report import IdentifierResult, markdown
from benchmarks.running.command import NotSetUp
from benchmarks.running.pinning import two_cores
from benchmarks.running.processes import ServerError

SENTENCE = {
    "text": "My name is Zbigniew Kowalczyk and I live in Berlin. " * 40,
    "entities": [{"type": "PERSON", "start": 11, "end": 29}],
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment whose Python prints sentences, whatever its arguments are."""
    directory = tmp_path_factory.mktemp("environment")
    lines = [json.dumps(SENTENCE | {"template": template}) for template in range(10)]
    (directory / "lines").write_text("\n".join(lines))
    python = directory / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexec cat {directory / 'lines'}\n")
    python.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def run(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = pii.PiiOptions(
        sentences=10,
        identifiers=20,
        seed=1,
        out=tmp_path_factory.mktemp("out"),
        command=("python", "-m", "benchmarks.pii"),
        environment=environment,
    )
    return pii.run(options)


def test_both_halves_are_in_the_table(run):
    assert "| fully covered | tuned (5 sentences) | held out (5 sentences) |" in run.tables
    assert "| PERSON | 1.000 of 5 | 1.000 of 5 |" in run.tables


def test_cost_and_identifiers_are_told(run):
    assert "| patterns |" in run.tables
    assert "| all |" in run.tables
    assert "found: 80 of 80." in run.tables
    assert "Memory of the process (PSS)" in run.tables


def test_document_has_the_figures(run):
    document = json.loads(run.path.read_bytes())
    assert document["times"]["all"]["p50"] > document["times"]["patterns"]["p50"] > 0
    assert document["halves"][1]["cover"]["covered"] == {"PERSON": 5}


def test_missing_environment_says_what_to_do(tmp_path):
    with pytest.raises(NotSetUp, match=r"make \.bench/pii"):
        generate(1, seed=1, environment=tmp_path)


def test_detection_that_ends_is_an_error():
    with detecting(core=two_cores().client) as detection, pytest.raises((ServerError, OSError)):
        detection.ask(["text"], parts="none")  # type: ignore[arg-type]


def test_missed_identifiers_are_named():
    missed = IdentifierResult(3, ("card, spaced", "card, spaced"))
    assert "found: 1 of 3. Missed: card, spaced (2)." in "\n".join(
        markdown_of(identifiers=missed).splitlines()
    )


def markdown_of(**changes):
    from dataclasses import replace
    from datetime import UTC, datetime

    from benchmarks.pii.report import PiiRun
    from benchmarks.running.machine import describe

    run = PiiRun(
        began=datetime(2026, 11, 25, tzinfo=UTC),
        took_s=60,
        command=("python", sys.executable),
        machine=describe(Path(__file__).parent, versioned=False),
        halves=[],
        identifiers=IdentifierResult(0, ()),
        times={},
        pss_bytes=0,
    )
    return markdown(replace(run, **changes))
