"""`ringfence reembed` and `ringfence drift` against a stand-in of the admin API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from serving.cli.commands.drift import bars, drift
from serving.cli.commands.reembed import reembed
from tests.serving.cli.documents_stand_in import Documents, listening

RECALL = {"queries": 200, "found_before": 0.9, "found_after": 0.95, "overlap": None}
RUNNING = {
    "store": "vs_1", "phase": "running", "model": "m", "done": 1, "total": 2, "recall": None,
    "error": None,
}  # fmt: skip
SWAPPED = RUNNING | {"phase": "swapped", "recall": RECALL}
PATH = "/admin/v1/vector_stores/vs_1"
REPORT: dict[str, Any] = {
    "canary_cosine": 0.5, "psi": None, "centroid_shift": 0.01, "psi_documents": 0.3,
    "psi_documents_earlier": 0.3, "centroid_shift_documents": 0.2, "low_share": 0.1,
    "low_share_earlier": 0.1, "queries": 150, "earlier_queries": 3, "scores": [0, 1, 2],
    "staleness": {"files": 2, "newest_age_days": 1.5, "old_share": 0.0},
    "psi_by_day": {"2026-11-01": 0.1, "2026-11-02": 0.2},
    "missing": {"psi": "too few samples: 3 of 100"}, "alerts": ["canary_cosine"],
}  # fmt: skip


@pytest.fixture
def documents() -> Documents:
    return Documents()


@pytest.fixture
def call(documents: Documents, home: Path) -> Iterator[Callable[..., Result]]:  # noqa: ARG001
    app = typer.Typer()
    app.command()(reembed)
    app.command()(drift)
    with listening(documents) as url:

        def invoke(*arguments: str, code: int = 0) -> Result:
            fixed = ["--url", url, "--admin-key", "rf-key"]
            result = CliRunner().invoke(app, [*arguments, *fixed])
            assert result.exit_code == code, (result.output, result.exception)
            return result

        yield invoke


def test_reembedding_is_followed_to_its_end(
    call: Callable[..., Result], documents: Documents
) -> None:
    documents.answers = {
        ("POST", f"{PATH}/reembed"): [RUNNING],
        ("GET", f"{PATH}/reembed"): [RUNNING, SWAPPED],
    }
    told = call("reembed", "--store", "vs_1", "--model", "m").stdout
    assert documents.bodies[0] == {"model": "m", "force": False}
    assert told == (
        "vs_1 is searched by m now.\n"
        "Of 200 of its chunks, found among the first 10: 95.0%, before 90.0%. "
        "Agreement of the first 10: unknown.\n"
    )


def test_failed_reembedding_ends_with_one_and_its_reason(
    call: Callable[..., Result], documents: Documents
) -> None:
    failed = RUNNING | {"phase": "failed", "error": "It finds less."}
    documents.answers = {
        ("POST", f"{PATH}/reembed"): [RUNNING],
        ("GET", f"{PATH}/reembed"): [failed],
    }
    result = call("reembed", "--store", "vs_1", "--model", "m", "--json", code=1)
    assert result.stderr == "ringfence: It finds less.\n"
    assert json.loads(result.stdout) == failed


def test_rollback_has_a_path_of_its_own(call: Callable[..., Result], documents: Documents) -> None:
    documents.answers = {
        ("POST", f"{PATH}/rollback"): [RUNNING],
        ("GET", f"{PATH}/reembed"): [RUNNING | {"phase": "swapped"}],
    }
    told = call("reembed", "--store", "vs_1", "--rollback").stdout
    assert told == "vs_1 is searched by m now.\n"


def test_model_and_rollback_exclude_each_other(call: Callable[..., Result]) -> None:
    call("reembed", "--store", "vs_1", code=2)
    call("reembed", "--store", "vs_1", "--model", "m", "--rollback", code=2)


def test_drift_shows_measures_why_one_is_missing_and_alerts(
    call: Callable[..., Result], documents: Documents
) -> None:
    documents.answers = {("GET", f"{PATH}/drift"): [REPORT]}
    lines = call("drift", "vs_1", code=1).stdout.splitlines()
    assert lines[:3] == [
        "measure\tvalue\talarm",
        "canary_cosine\t0.5000\tyes",
        "psi\ttoo few samples: 3 of 100\t-",
    ]
    assert lines[-3:] == [
        "best cosines, 0 to 1: 0 1 2",
        "psi by day, 2026-11-01 to 2026-11-02: 0.1 0.2",
        "alerts: canary_cosine",
    ]


def test_drift_without_alerts_ends_with_zero_and_is_json_on_request(
    call: Callable[..., Result], documents: Documents
) -> None:
    calm = REPORT | {"alerts": []}
    documents.answers = {("GET", f"{PATH}/drift"): [calm]}
    assert json.loads(call("drift", "vs_1", "--json").stdout) == calm


def test_bars_go_from_none_to_the_highest() -> None:
    assert bars([0, 1, 2, 7]) == "▁▂▃█"
    assert bars([]) == ""
