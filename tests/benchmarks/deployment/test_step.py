from __future__ import annotations

import pytest

from benchmarks.client.records import RequestRecord
from benchmarks.deployment.step import Limits, figures, knee


def record(*, start_s=0.0, ttft_s=0.1, e2e_s=1.0, tokens=10, error=None):
    return RequestRecord(
        start_s=start_s,
        event_times_s=(start_s + ttft_s, start_s + e2e_s),
        end_s=start_s + e2e_s,
        status=200,
        completion_tokens=tokens,
        error=error,
    )


def step(records, limits=Limits(), *, streams=1, max_tokens=10):  # noqa: B008  It is frozen.
    return figures(records, max_tokens=max_tokens, limits=limits, client_cpu_s=0.5, streams=streams)


def test_rates_are_over_wall_time():
    found = step([record(), record(start_s=1.0), record(start_s=3.0)])
    assert (found.wall_s, found.requests_per_s, found.output_tokens_per_s) == (4.0, 0.75, 7.5)
    assert found.client_cpu_share == 0.125


def test_failed_requests_are_counted_and_in_no_other_figure():
    found = step([record(), record(error="first", e2e_s=9.0), record(error="second")])
    assert (found.requests, found.failed, found.served, found.first_failure) == (3, 2, 1, "first")
    assert found.e2e_s.p99 == 1.0
    assert found.requests_per_s == pytest.approx(1 / 9)


def test_a_step_of_failures_alone_has_no_latency():
    assert step([record(error="no")]).ttft_s is None


def test_answers_of_another_length_are_counted():
    assert step([record(), record(tokens=7)]).other_length == 1


def test_goodput_is_the_rate_of_requests_that_keep_every_limit():
    limits = Limits.parse(["ttft:100ms", "tpot:100ms", "e2e:1s"])
    # TPOT of the first is (1 - 0.1) / 9 s, and TTFT and E2E are just at their limits.
    good, late, slow, long = record(), record(ttft_s=0.2), record(tokens=9), record(e2e_s=1.001)
    assert [limits.kept_by(r) for r in (good, late, slow, long)] == [True, False, False, False]
    assert step([good, late], limits).goodput_per_s == 1.0


def test_one_token_misses_no_limit_of_tpot():
    assert Limits(tpot_s=0.0).kept_by(record(tokens=1))


def test_without_limits_there_is_no_goodput():
    assert step([record()]).goodput_per_s is None


def test_a_failed_request_is_not_good():
    assert step([record(), record(error="no")], Limits(e2e_s=5)).goodput_per_s == 1.0


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        (["ttft:500ms"], Limits(ttft_s=0.5)),
        (["ttft:500", "e2el:2s"], Limits(ttft_s=0.5, e2e_s=2.0)),
        (["tpot:12.5ms"], Limits(tpot_s=0.0125)),
    ],
)
def test_limits_are_read_with_their_units(texts, limits):
    assert Limits.parse(texts) == limits
    assert Limits.parse(limits.shown().split(",")) == limits


@pytest.mark.parametrize("texts", [["ttft"], ["itl:5ms"], ["ttft:-1"], ["e2e:1s", "e2el:2s"], [""]])
def test_what_is_no_limit_is_refused(texts):
    with pytest.raises(ValueError, match=r"is not like|is given twice"):
        Limits.parse(texts)


def test_the_knee_is_the_fewest_streams_within_5_percent_of_the_best():
    # Requests a second: 1, 1.9, 2 and 1.95.
    walls = {1: 1.0, 2: 1 / 1.9, 4: 0.5, 8: 1 / 1.95}
    steps = [step([record(e2e_s=wall_s)], streams=n) for n, wall_s in walls.items()]
    assert knee(steps).streams == 2
    assert knee(list(reversed(steps))).streams == 2
