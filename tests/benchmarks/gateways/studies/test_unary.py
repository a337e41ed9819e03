from benchmarks.gateways.studies.study import Outcome, Sample
from benchmarks.gateways.studies.unary import (
    CONCURRENCY,
    UNARY_LATENCY,
    UNARY_RPS,
    added_latency,
    latency,
    requests_per_second,
)
from benchmarks.running.machine import Conditions

QUIET = Conditions(steal_share=0.0, foreign_share=0.0)


def sample(label, number, p50_ms):
    return Sample("unary-latency", number, label, Outcome({"p50_ms": p50_ms}, None, QUIET))


def test_requests_a_second_are_counted_at_each_concurrency(mock):
    outcome = requests_per_second(mock(UNARY_RPS.pace), window_s=0.5)
    assert outcome.failure is None
    assert all(outcome.values[f"rps_{n}"] > 0 for n in CONCURRENCY)


def test_latency_is_measured(mock):
    outcome = latency(mock(UNARY_LATENCY.pace))
    assert outcome.failure is None
    assert outcome.values["p50_ms"] > 0


def test_added_latency_is_what_direct_did_not_take_in_the_same_round():
    samples = [sample("direct", 0, 1.0), sample("direct", 1, 2.0)]
    samples += [sample("a", 0, 5.0), sample("a", 1, 5.0)]
    derived = added_latency(samples)
    assert [s.outcome.values.get("added_p50_ms") for s in derived] == [None, None, 4.0, 3.0]


def test_a_round_that_failed_has_nothing_added():
    failed = Sample("unary-latency", 0, "a", Outcome({}, "refused", QUIET))
    derived = added_latency([sample("direct", 0, 1.0), failed])
    assert [dict(s.outcome.values) for s in derived] == [{"p50_ms": 1.0}, {}]
