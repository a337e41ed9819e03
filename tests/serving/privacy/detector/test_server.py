"""Detection as a deployment: limits, turns, failures as values; and the client's side."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from models.engine import EngineFailed, Failure, RequestRejected
from serving.privacy.detector.server import (
    MAX_CHARACTERS,
    TURN,
    DetectorOptions,
    Turns,
    build_detector,
)
from serving.privacy.detector.windows import WINDOW, TextWindow
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.spans import Span

ROOT = Path(__file__).parents[4]


class Recorded:
    """`PersonalData` that finds whole windows, and records callers and threads."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.looked: list[list[int]] = []
        self.threads: set[str] = set()
        self.began = threading.Event()
        self._before = before

    def look(self, windows: Sequence[TextWindow]) -> list[list[Span]]:
        self.began.set()
        self._before()
        self.threads.add(threading.current_thread().name)
        self.looked.append([len(window.text) for window in windows])
        return [[Span(0, len(window.text), "PERSON")] for window in windows]

    def joined(
        self, texts: Sequence[str], windows: Sequence[TextWindow], found: Sequence[list[Span]]
    ) -> list[list[Span]]:
        self.threads.add(threading.current_thread().name)
        spans: list[list[Span]] = [[] for _ in texts]
        for window, seen in zip(windows, found, strict=True):
            spans[window.index].extend(window.in_text(seen))
        return spans


def turns_of(data: Recorded) -> Turns:
    return Turns(data)  # type: ignore[arg-type]


async def detect(turns: Turns, texts: list[str]) -> list[list[Span]] | Failure:
    """Detect as the deployment does, without other requests."""

    async def look(windows: list[TextWindow]) -> list[list[Span]]:
        return (await turns.look_together([windows]))[0]

    return await turns.detect(texts, look)


async def test_spans_of_each_text_come_back() -> None:
    found = await detect(turns_of(Recorded()), ["one", "", "three"])
    assert found == [[Span(0, 3, "PERSON")], [], [Span(0, 5, "PERSON")]]


async def test_detection_runs_in_one_thread_of_its_own() -> None:
    data = Recorded()
    await detect(turns_of(data), ["one"])
    assert {name.partition("_")[0] for name in data.threads} == {"detect"}


async def test_calls_that_are_looked_at_together_get_their_own_spans() -> None:
    data = Recorded()
    calls = [[TextWindow(0, 0, "a"), TextWindow(1, 0, "bb")], [], [TextWindow(0, 0, "ccc")]]
    assert await turns_of(data).look_together(calls) == [
        [[Span(0, 1, "PERSON")], [Span(0, 2, "PERSON")]],
        [],
        [[Span(0, 3, "PERSON")]],
    ]
    assert data.looked == [[1, 2, 3]]


async def test_short_call_does_not_wait_for_the_end_of_a_long_one() -> None:
    data = Recorded(lambda: time.sleep(0.01))
    turns = turns_of(data)
    long = asyncio.create_task(detect(turns, ["word " * WINDOW * TURN]))
    await asyncio.to_thread(data.began.wait, 5)
    await detect(turns, ["short"])
    assert not long.done()
    await long


async def test_call_that_is_given_up_takes_its_other_turns_with_it() -> None:
    data = Recorded(lambda: time.sleep(0.01))
    call = asyncio.create_task(detect(turns_of(data), ["word " * WINDOW * TURN]))
    await asyncio.to_thread(data.began.wait, 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.1)
    assert len(data.looked) <= 2


async def test_failure_is_a_value_without_text(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("Zbigniew")

    answer = await detect(turns_of(Recorded(fail)), ["Zbigniew"])
    assert answer == Failure(EngineFailed, "Detection failed.")
    assert "ValueError" in caplog.text
    assert "Zbigniew" not in caplog.text


async def test_text_that_is_too_long_is_refused() -> None:
    data = Recorded()
    answer = await detect(turns_of(data), ["x" * MAX_CHARACTERS, "x"])
    assert isinstance(answer, Failure)
    assert answer.error is RequestRejected
    assert data.looked == []


def test_build_applies_its_options() -> None:
    rules = OperatorRules.of({"staff": r"EMP-\d{5}"})
    options = DetectorOptions(replicas=2, max_ongoing_requests=3, max_queued_requests=4, cpus=0.5)
    deployment = build_detector(rules, drain_s=30, options=options)._bound_deployment
    assert (deployment.name, deployment.num_replicas) == ("Detector", 2)
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (3, 4)
    assert deployment.ray_actor_options["num_cpus"] == 0.5
    assert deployment.ray_actor_options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert deployment.init_args == (rules, options)


def test_import_of_both_ends_is_light() -> None:
    script = (
        "import sys; import serving.privacy.detector.server, serving.privacy.detector.remote;"
        "print(sorted({'torch', 'spacy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a real deployment."""
    result = tmp_path_factory.mktemp("scenario") / "result.json"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("detector_scenario.py")), str(result)],
        env={"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answers: dict[str, Any] = json.loads(result.read_bytes())
    return answers


@pytest.mark.stack
def test_real_deployment_finds_personal_data(scenario: dict[str, Any]) -> None:
    assert scenario["found"] == [["Zbigniew Kowalczyk", "jane@example.org", "EMP-12345"], []]


@pytest.mark.stack
def test_real_deployment_has_no_torch(scenario: dict[str, Any]) -> None:
    assert scenario["torch_mapped"] is False
    assert scenario["spacy_mapped"] is True


@pytest.mark.stack
def test_deadline_holds_over_a_real_handle(scenario: dict[str, Any]) -> None:
    assert scenario["hurried"] == "Detection failed: EngineTimeout."


@pytest.mark.stack
def test_full_queue_closes(scenario: dict[str, Any]) -> None:
    assert "answered" in scenario["crowd"]
    assert "Detection failed: EngineOverloaded." in scenario["crowd"]


@pytest.mark.stack
def test_detector_that_dies_closes(scenario: dict[str, Any]) -> None:
    assert scenario["death"] == "Detection failed: EngineUnavailable."
