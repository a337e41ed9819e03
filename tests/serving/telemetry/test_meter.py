"""Metrics and the log line: once per request, for every outcome, without text."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import Any

import orjson
import pytest

from models.background import LoopState
from models.engine import ContextLengthExceeded, EngineFailed, RequestRejected, Usage
from serving.domain.errors import InvalidRequest
from serving.telemetry.meter import Meter, Record


def record(**fields: Any) -> Record:
    given: dict[str, Any] = {
        "request_id": "r1", "endpoint": "chat", "tenant": "acme", "key_id": "k1", "model": "m",
        "streamed": True,
    }  # fmt: skip
    return Record(**given | fields)


def samples(meter: Meter) -> dict[str, float]:
    lines = meter.render().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def end_with(error: BaseException | None) -> None:
    if error is not None:
        raise error


OUTCOMES = [
    (None, "ok"),
    (asyncio.CancelledError(), "cancelled"),
    (GeneratorExit(), "cancelled"),
    (EngineFailed("canary"), "engine_failed"),
    (ContextLengthExceeded("canary"), "context_length_exceeded"),
    (RequestRejected("canary"), "invalid_request"),
    (InvalidRequest("canary"), "invalid_request"),
    (ValueError("canary"), "error"),
    (KeyboardInterrupt(), "error"),
]


@pytest.mark.parametrize(
    ("error", "outcome"), OUTCOMES, ids=[type(row[0]).__name__ for row in OUTCOMES]
)
def test_request_is_counted_and_logged_once_on_every_outcome(
    caplog: pytest.LogCaptureFixture, error: BaseException | None, outcome: str
) -> None:
    caplog.set_level(logging.DEBUG)
    meter = Meter()
    expected = nullcontext() if error is None else pytest.raises(type(error))
    with expected, meter.record(record()):
        end_with(error)
    counted = samples(meter)
    total = f'ringfence_requests_total{{endpoint="chat",model="m",outcome="{outcome}"}}'
    assert counted[total] == 1
    assert counted['ringfence_running_requests{model="m"}'] == 0
    assert counted['ringfence_request_duration_seconds_count{endpoint="chat",model="m"}'] == 1
    [line] = [orjson.loads(logged.getMessage()) for logged in caplog.records]
    assert line["outcome"] == outcome
    assert "canary" not in caplog.text + meter.render().decode()


def test_log_line_has_names_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Meter().record(record()) as running:
        running.usage = Usage(3, 2, cached_tokens=1)
    line = orjson.loads(caplog.records[0].getMessage())
    for name in ("duration_ms", "queued_ms", "admission_ms"):
        assert line.pop(name) >= 0
    assert line == {
        "event": "request", "request_id": "r1", "endpoint": "chat", "tenant": "acme",
        "key_id": "k1", "model": "m", "streamed": True, "outcome": "ok",
        "prompt_tokens": 3, "completion_tokens": 2,
    }  # fmt: skip


def test_running_requests_are_counted_while_they_run() -> None:
    meter = Meter()
    with meter.record(record()), meter.record(record()):
        assert samples(meter)['ringfence_running_requests{model="m"}'] == 2


def test_time_to_first_token_is_that_of_the_first_delta() -> None:
    meter = Meter()
    with meter.record(record(started=0.0)) as running:
        running.delta(b"data: {}\n\n")
        first_s = running.first_delta_s
        running.delta(b"data: {}\n\n")
    assert running.first_delta_s == first_s
    assert samples(meter)['ringfence_time_to_first_token_seconds_count{model="m"}'] == 1
    assert samples(meter)['ringfence_time_to_first_token_seconds_sum{model="m"}'] == first_s


def test_request_without_a_delta_has_no_time_to_first_token() -> None:
    meter = Meter()
    with meter.record(record()):
        pass
    assert 'ringfence_time_to_first_token_seconds_count{model="m"}' not in samples(meter)


def test_request_that_was_cut_short_counts_its_deltas() -> None:
    meter = Meter()
    with pytest.raises(asyncio.CancelledError), meter.record(record()) as running:  # noqa: PT012
        running.delta(b"data: {}\n\n")
        running.delta(b"data: {}\n\n")
        raise asyncio.CancelledError
    assert samples(meter)['ringfence_tokens_total{kind="completion",model="m"}'] == 2


def test_background_loops_are_shown_by_name() -> None:
    states = [
        LoopState("one", 3, 12.5),
        LoopState("two", 0, None),
    ]
    meter = Meter()
    meter.watch_loops(lambda: states)
    assert samples(meter) == {
        'ringfence_background_failures_total{loop="one"}': 3,
        'ringfence_background_failures_total{loop="two"}': 0,
        'ringfence_background_success_age_seconds{loop="one"}': 12.5,
    }
    states[1] = LoopState("two", 1, 0.5)
    assert samples(meter)['ringfence_background_failures_total{loop="two"}'] == 1
