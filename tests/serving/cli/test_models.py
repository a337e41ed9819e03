"""`ringfence models`."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.serving.cli.conftest import Run

Write = Callable[[str], str]


def test_list_shows_what_is_served_and_the_rest_of_the_catalogue(
    run: Run, config_file: Write
) -> None:
    text = "models: [simulated, {base: simulated, id: slow}]"
    rows = json.loads(run("models", "list", "--json", "-c", config_file(text)).stdout)
    assert {row["id"]: row["served"] for row in rows} == {
        "simulated": "yes",
        "slow": "yes",
        "smollm2-135m-instruct": "no",
        "all-minilm-l6-v2": "no",
    }


def test_list_says_what_is_simulated(run: Run, config_file: Write) -> None:
    file = config_file("models: [simulated]")
    row = json.loads(run("models", "list", "--json", "-c", file).stdout)[0]
    assert row == {
        "id": "simulated", "task": "generate", "runs_on": "simulation", "weights": "made up",
        "served": "yes", "licence": "none",
    }  # fmt: skip


def test_list_says_what_has_to_be_prepared_or_is_missing(run: Run, config_file: Write) -> None:
    text = "models: [smollm2-135m-instruct, {id: far, source: /nowhere/at/all}]"
    rows = json.loads(run("models", "list", "--json", "-c", config_file(text)).stdout)
    assert {row["id"]: row["weights"] for row in rows[:2]} == {
        "smollm2-135m-instruct": "to prepare",
        "far": "missing",
    }


def test_list_is_a_table_of_one_line_a_model(run: Run) -> None:
    lines = run("models", "list").stdout.splitlines()
    assert lines[0].split() == ["model", "task", "runs", "on", "weights", "served", "licence"]
    assert len(lines) == 4


def test_pull_of_an_unknown_model_is_refused(run: Run) -> None:
    told = run("models", "pull", "nope", code=1).stderr
    assert told == "ringfence: 'nope' is neither configured nor in the catalogue\n"


def test_pull_of_what_cannot_be_had_says_why(run: Run, config_file: Write) -> None:
    file = config_file("models: [{id: far, source: /nowhere/at/all}]")
    told = run("models", "pull", "far", "-c", file, code=1).stderr
    assert "/nowhere/at/all" in told
