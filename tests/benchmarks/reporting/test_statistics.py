import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reporting.statistics import Summary, percentile, ratio, round_ratios, summarise


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (25, 1.75), (50, 2.5), (99, 3.97), (100, 4.0)]
)
def test_percentile_equals_numpys_linear_default(percent, expected):
    assert math.isclose(expected, percentile([4.0, 1.0, 3.0, 2.0], percent))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_percentile_lies_within_its_values(values, percent):
    assert min(values) - 1e-6 <= percentile(values, percent) <= max(values) + 1e-6


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_summarise_gives_count_median_and_tail():
    assert Summary(count=101, p50=50.0, p99=99.0) == summarise([float(i) for i in range(101)])


def test_round_ratios_pair_rounds_by_number():
    arm, baseline = {2: 9.0, 0: 1.0, 1: 5.0}, {0: 2.0, 2: 3.0, 7: 1.0}
    assert round_ratios(arm, baseline) == (0.5, 3.0)


def test_ratio_is_a_geometric_mean():
    assert math.isclose(1.0, ratio([0.5, 2.0], seed=1).mean)


def test_ratio_of_equal_rounds_has_no_width():
    interval = ratio([0.9, 0.9, 0.9], seed=1)
    assert (
        interval.rounds,
        math.isclose(0.9, interval.low),
        math.isclose(0.9, interval.high),
    ) == (3, True, True)


def test_ratio_interval_is_that_of_the_bootstrap():
    # Resamples of {1, 4}: both 1 and both 4 have probability 1/4 each, so they are the bounds.
    interval = ratio([1.0, 4.0], seed=1)
    assert (math.isclose(1.0, interval.low), math.isclose(4.0, interval.high)) == (True, True)


def test_ratio_interval_narrows_with_rounds():
    few, many = ratio([0.8, 1.0, 1.2] * 2, seed=1), ratio([0.8, 1.0, 1.2] * 50, seed=1)
    assert many.high - many.low < (few.high - few.low) / 3


def test_ratio_depends_on_nothing_but_its_arguments():
    assert ratio([0.8, 1.0, 1.3], seed=1) == ratio([0.8, 1.0, 1.3], seed=1)


@pytest.mark.parametrize("ratios", [[], [1.0, 0.0], [-1.0]])
def test_ratio_needs_positive_values(ratios):
    with pytest.raises(ValueError, match="positive"):
        ratio(ratios, seed=1)
