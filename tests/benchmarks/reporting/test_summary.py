from dataclasses import replace

import pytest

from benchmarks.client.records import RequestRecord
from benchmarks.reporting.summary import counted_rounds, summarise_run
from benchmarks.running.machine import Conditions
from benchmarks.running.measure import MAX_TOKENS, Measurement, MeasurementError


def record(*, tokens=MAX_TOKENS, error=None, pace_s=1.0):
    return RequestRecord(
        start_s=0.0,
        event_times_s=(pace_s, 2 * pace_s, 3 * pace_s),
        end_s=3 * pace_s,
        status=200,
        completion_tokens=tokens,
        error=error,
    )


QUIET = Measurement(
    round_number=0,
    label="",
    streams=1,
    records=(record(),),
    wall_s=1.0,
    cpu_s=1.0,
    client_cpu_s=0.0,
    conditions=Conditions(steal_share=0.0, foreign_share=0.0),
)
DISTURBED = Conditions(steal_share=0.1, foreign_share=0.0)


def measurement(number, label, **fields):
    return replace(QUIET, round_number=number, label=label, **fields)


def test_all_rounds_of_a_quiet_machine_count():
    runs = [measurement(number, label) for number in range(3) for label in "ab"]
    assert counted_rounds(runs) == ({0, 1, 2}, False)


@pytest.mark.parametrize(
    "trouble",
    [
        {"conditions": Conditions(steal_share=0.021, foreign_share=0.0)},
        {"conditions": Conditions(steal_share=0.0, foreign_share=0.051)},
        {"records": (record(error="refused"),)},
        {"records": (record(tokens=MAX_TOKENS - 1),)},
    ],
)
def test_a_round_in_which_one_arm_was_in_trouble_counts_for_none(trouble):
    runs = [measurement(number, label) for number in range(3) for label in "ab"]
    runs[0] = measurement(0, "a", **trouble)
    assert counted_rounds(runs) == ({1, 2}, False)


def test_disturbed_rounds_are_used_and_marked_when_they_are_most():
    runs = [measurement(0, "a"), *(measurement(n, "a", conditions=DISTURBED) for n in (1, 2))]
    assert counted_rounds(runs) == ({0, 1, 2}, True)


def test_failed_rounds_are_never_used():
    runs = [
        measurement(0, "a", conditions=DISTURBED),
        measurement(1, "a", records=(record(tokens=1),)),
    ]
    assert counted_rounds(runs) == ({0}, True)


def test_a_run_without_a_served_round_has_no_summary():
    runs = [measurement(0, "a", records=(record(error="refused"),))]
    with pytest.raises(MeasurementError, match="a: refused"):
        counted_rounds(runs)


def test_a_line_compares_rounds_with_the_baselines():
    runs = []
    for number, slowdown in enumerate((1.0, 2.0, 4.0)):
        runs.append(measurement(number, "base", wall_s=slowdown, cpu_s=64.0))
        runs.append(
            measurement(
                number, "arm", wall_s=2 * slowdown, cpu_s=192.0, records=(record(pace_s=0.5),)
            )
        )
    base, arm = summarise_run(runs, labels=["base", "arm"])
    assert (base.label, base.speed.mean, base.tokens_per_s) == ("base", 1.0, 32.0)
    assert (arm.label, arm.tokens_per_s) == ("arm", 16.0)
    assert arm.cpu is not None
    assert (arm.speed.mean, arm.speed.low, arm.speed.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (arm.cpu.mean, arm.cpu_s_per_token) == pytest.approx((3.0, 3.0))
    assert (arm.ttft_s.p50, arm.itl_s.p50, arm.itl_s.count) == (0.5, 0.5, 6)


def test_lines_are_ordered_by_stream_count_then_label():
    runs = [measurement(0, label, streams=streams) for streams in (4, 1) for label in "ba"]
    lines = summarise_run(runs, labels=["a", "b"])
    found = [(line.streams, line.label) for line in lines]
    assert found == [(4, "a"), (4, "b"), (1, "a"), (1, "b")]


def test_cpu_below_a_tick_of_the_clock_has_no_ratio():
    (line,) = summarise_run([measurement(0, "a", cpu_s=0.0)], labels=["a"])
    assert line.cpu is None
