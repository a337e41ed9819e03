import pytest

from benchmarks.gateways.studies.study import Column, Outcome, Sample, Study
from benchmarks.gateways.summary import summarise_study
from benchmarks.running.machine import Conditions
from benchmarks.running.measure import MeasurementError
from benchmarks.servers.steps import Pace

QUIET = Conditions(steal_share=0.0, foreign_share=0.0)
NOISY = Conditions(steal_share=0.0, foreign_share=0.5)


def never(_contender):
    raise AssertionError("a summary measures nothing")


STUDY = Study(
    name="s",
    procedure="",
    pace=Pace(),
    columns=[Column("cpu", "CPU", compared=True), Column("rate", "rate")],
    run=never,
)


def sample(label, number, cpu, *, failure=None, conditions=QUIET):
    outcome = Outcome({"cpu": cpu, "rate": 1.0}, failure, conditions)
    return Sample("s", number, label, outcome)


def rows(samples, *, labels, references=("a",)):
    return summarise_study(STUDY, samples, labels=labels, references=references)


def test_ratios_are_of_rounds_and_figures_are_medians():
    samples = [sample("a", n, 2.0**n) for n in range(3)]
    samples += [sample("b", n, 3 * 2.0**n) for n in range(3)]
    base, other = rows(samples, labels=["a", "b"])
    assert (base.medians["cpu"], other.medians["cpu"]) == (2.0, 6.0)
    assert other.ratios["cpu"]["a"].mean == pytest.approx(3.0)
    assert other.ratios.keys() == {"cpu"}


def test_a_round_counts_for_all_or_for_none():
    samples = [sample(label, n, 1.0) for n in range(3) for label in "ab"]
    samples[0] = sample("a", 0, 9.0, conditions=NOISY)
    assert [(row.rounds, row.disturbed) for row in rows(samples, labels=["a", "b"])] == [
        (2, False)
    ] * 2


def test_a_gateway_that_never_served_costs_the_others_nothing():
    samples = [sample("a", n, 1.0) for n in range(2)]
    samples += [sample("b", n, 1.0, failure=f"no {n}") for n in range(2)]
    good, bad = rows(samples, labels=["a", "b"])
    assert (good.rounds, good.failure) == (2, None)
    assert (bad.rounds, bad.failure, bad.medians) == (0, "no 1", {})


def test_nothing_is_divided_by_nothing():
    samples = [sample("a", 0, 0.0), sample("b", 0, 1.0)]
    assert [row.ratios["cpu"] for row in rows(samples, labels=["a", "b"])] == [{}, {}]


def test_a_study_in_which_no_round_is_whole_has_no_figures():
    samples = [sample("a", 0, 1.0, failure="x"), sample("b", 0, 1.0)]
    samples += [sample("a", 1, 1.0), sample("b", 1, 1.0, failure="y")]
    with pytest.raises(MeasurementError, match="a: x; b: y"):
        rows(samples, labels=["a", "b"])
