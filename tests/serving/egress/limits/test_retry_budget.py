"""Shares: at most a share of requests may leave or be retried, and at least a floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.limits.retry_budget import (
    MAX_SUBJECTS,
    OVERFLOW_FLOOR,
    RETRY_FLOOR,
    RETRY_SHARE,
    WINDOW_S,
    Place,
    RetryBudget,
    Shares,
)
from serving.egress.limits.sliding_window import PARTS, MovingCount


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shares(clock: Clock) -> Shares:
    return Shares(clock=clock)


def take(
    shares: Shares, key: str = "k", *, model_share: float = 1.0, key_share: float = 1.0
) -> str | None:
    """Take a place; return whose share is used up, or None."""
    taken = shares.take("m", key, model_share=model_share, key_share=key_share)
    return None if isinstance(taken, Place) else taken


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), max_size=50))
def test_moving_count_is_of_the_window_and_of_a_part_more_at_most(
    course: list[tuple[float, int]],
) -> None:
    clock = Clock()
    count = MovingCount(60.0, clock)
    added: list[tuple[float, int]] = []
    for pause_s, number in course:
        clock.seconds += pause_s
        count.add(number)
        added.append((clock.seconds, number))
        least = sum(n for at, n in added if at > clock.seconds - 60.0)
        most = sum(n for at, n in added if at >= clock.seconds - 60.0 * (1 + 1 / PARTS) - 1e-6)
        assert least <= count.total() <= most


def test_share_of_a_model_bounds_all_of_its_keys(shares: Shares) -> None:
    for number in range(100):
        shares.came("m", f"k{number % 2}")
    verdicts = [take(shares, f"k{number % 2}", model_share=0.3) for number in range(31)]
    assert verdicts == [None] * 30 + ["model"]


def test_share_of_a_key_bounds_that_key_only(shares: Shares) -> None:
    for _ in range(10):
        shares.came("m", "k")
        shares.came("m", "other")
    assert [take(shares, key_share=0.3) for _ in range(4)] == [None] * 3 + ["key"]
    assert take(shares, "other", key_share=0.3) is None


def test_refusal_takes_nothing_from_the_model(shares: Shares) -> None:
    for _ in range(10):
        shares.came("m", "k")
        shares.came("m", "other")
    for _ in range(20):
        take(shares, key_share=0.3)
    assert [take(shares, "other", model_share=0.2) for _ in range(2)] == [None, "model"]


def test_few_may_leave_however_few_came(shares: Shares) -> None:
    shares.came("m", "k")
    verdicts = [take(shares, model_share=0.01) for _ in range(OVERFLOW_FLOOR + 1)]
    assert verdicts == [None] * OVERFLOW_FLOOR + ["model"]


def taken_place(shares: Shares) -> Place:
    taken = shares.take("m", "k", model_share=0.01, key_share=0.01)
    assert isinstance(taken, Place)
    return taken


def test_place_given_back_is_free(shares: Shares, clock: Clock) -> None:
    places = [taken_place(shares) for _ in range(OVERFLOW_FLOOR)]
    clock.seconds += WINDOW_S / 2
    places[0].give_back()
    assert [take(shares, model_share=0.01) for _ in range(2)] == [None, "model"]


def test_place_given_back_after_its_window_frees_no_other(shares: Shares, clock: Clock) -> None:
    old = taken_place(shares)
    clock.seconds += 2 * WINDOW_S
    for _ in range(OVERFLOW_FLOOR):
        taken_place(shares)
    old.give_back()
    assert take(shares, model_share=0.01) == "model"


def test_what_left_long_ago_does_not_count(shares: Shares, clock: Clock) -> None:
    for _ in range(OVERFLOW_FLOOR):
        take(shares, model_share=0.01)
    clock.seconds += WINDOW_S * (1 + 1 / PARTS)
    assert take(shares, model_share=0.01) is None


def test_memory_does_not_grow_with_keys(shares: Shares) -> None:
    for number in range(2 * MAX_SUBJECTS):
        shares.came("m", f"k{number}")
    assert len(shares._allowances) == MAX_SUBJECTS


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 4)), min_size=1, max_size=200))
def test_amplification_is_bounded_whatever_fails(course: list[tuple[float, int]]) -> None:
    """Attempts are at most 1.2 times the requests, or the floor, in every window."""
    clock = Clock()
    budget = RetryBudget(clock=clock)
    requests: list[float] = []
    retries: list[float] = []
    for pause_s, wanted in course:
        clock.seconds += pause_s
        budget.request()
        requests.append(clock.seconds)
        retries += [clock.seconds for _ in range(wanted) if budget.take()]
        since = clock.seconds - WINDOW_S
        window = WINDOW_S * (1 + 1 / PARTS)
        came = sum(at >= clock.seconds - window - 1e-6 for at in requests)
        assert sum(at > since for at in retries) <= max(RETRY_FLOOR, RETRY_SHARE * came)


def test_amplification_in_an_outage_is_a_fifth(clock: Clock) -> None:
    budget = RetryBudget(clock=clock)
    attempts = 0
    for _ in range(5000):
        clock.seconds += 0.05
        budget.request()
        attempts += 1 + sum(budget.take() for _ in range(3))
    assert 1.19 < attempts / 5000 <= 1.2 + RETRY_FLOOR / 5000
