from dataclasses import replace

import pytest

from benchmarks.gateways.studies.steady import Steady
from benchmarks.gateways.studies.streams import STREAMS, most_streams, verdict
from benchmarks.running.machine import Conditions
from benchmarks.running.spending import Spent
from benchmarks.servers.steps import Pace

QUIET = Conditions(steal_share=0.0, foreign_share=0.0)
IDLE = Spent(
    gateway_s=0.1,
    upstream_s=0.1,
    client_s=0.1,
    wall_s=1.0,
    client_core_share=0.2,
    gateway_core_share=0.1,
    conditions=QUIET,
)
FULL = replace(IDLE, client_core_share=0.99)


@pytest.mark.full  # Needs a machine that is fast and quiet enough to hold a pace.
def test_the_mock_holds_a_step_at_its_pace(mock):
    outcome = most_streams(mock(STREAMS.pace), ramp=[10], window_s=0.5)
    (step,) = outcome.details
    assert (step["failure"], step["verdict"]) == (None, "held")
    assert step["tokens_per_s"] == pytest.approx(500, rel=0.15)
    assert outcome.values["streams"] == 10


def test_a_slower_upstream_holds_no_step(mock):
    outcome = most_streams(mock(Pace(step_ms=50)), ramp=[10, 20], window_s=0.5)
    assert [step["streams"] for step in outcome.details] == [10, 10]
    assert (outcome.values["streams"], outcome.values["tried"]) == (0, 10)


@pytest.mark.parametrize(
    ("added_s", "lag_s", "spent", "failure", "expected"),
    [
        (0.009, 0.0, IDLE, None, "held"),
        (0.011, 0.0, IDLE, None, "late"),
        (0.011, 0.0, FULL, None, "client"),
        (0.011, 0.006, IDLE, None, "client"),
        (0.009, 0.0, FULL, None, "held"),
        (0.009, 0.0, IDLE, "reset", "failed"),
    ],
)
def test_a_gateway_is_not_blamed_for_a_full_client(added_s, lag_s, spent, failure, expected):
    seen = Steady(tokens=1, gaps_s=[], lags_s=[], spent=spent, failure=failure)
    assert expected == verdict(added_s, lag_s, seen)
