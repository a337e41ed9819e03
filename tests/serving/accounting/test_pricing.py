"""What usage costs: exact, rounded up, and never above what was reserved for it."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import ModelSpec, Price
from models.engine import Usage
from serving.accounting.pricing import Tariff

NANOS = 10**9
LONGEST_S = 1800.0

AMOUNTS = st.decimals(0, 1000, places=6)
PRICES = st.builds(
    Price,
    input_per_million=AMOUNTS,
    cached_input_per_million=st.none() | AMOUNTS,
    output_per_million=AMOUNTS,
    per_gpu_second=st.just(Decimal(0)),
)
GPU_PRICES = st.builds(
    Price, input_per_million=AMOUNTS, output_per_million=AMOUNTS, per_gpu_second=AMOUNTS
)
TOKENS = st.integers(0, 10**6)
SECONDS = st.floats(0, LONGEST_S)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(TOKENS)
    return Usage(prompt, draw(TOKENS), cached_tokens=draw(st.integers(0, prompt)))


def spec(price: Price | dict[str, str], **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {"id": "m", "engine": "simulated", "price": price, "max_ongoing_requests": 1} | fields
    )


def tariff(price: Price | dict[str, str], **fields: Any) -> Tariff:
    return Tariff.of(spec(price, **fields))


def exact_nanos(price: Price, usage: Usage) -> Fraction:
    """Return the price of tokens before rounding."""
    cached = price.cached_input_per_million
    per_cached = price.input_per_million if cached is None else cached
    millionths = (
        (usage.prompt_tokens - usage.cached_tokens) * Fraction(price.input_per_million)
        + usage.cached_tokens * Fraction(per_cached)
        + usage.completion_tokens * Fraction(price.output_per_million)
    )
    return millionths / 10**6 * NANOS


@given(PRICES, usages())
def test_cost_of_tokens_is_the_exact_cost_rounded_up(price: Price, usage: Usage) -> None:
    cost = tariff(price).cost_nanos(usage, seconds=12.5)
    assert cost == math.ceil(exact_nanos(price, usage))


@given(PRICES, st.lists(usages(), max_size=20))
def test_sum_of_costs_is_never_below_what_was_used(price: Price, used: list[Usage]) -> None:
    costs = sum(tariff(price).cost_nanos(usage, seconds=0) for usage in used)
    exact = sum((exact_nanos(price, usage) for usage in used), Fraction())
    assert exact <= costs < exact + max(1, len(used))


@given(AMOUNTS, SECONDS, st.integers(1, 512), st.integers(1, 16))
def test_cost_of_time_is_the_request_s_share_of_its_gpus(
    amount: Decimal, seconds: float, places: int, gpus: int
) -> None:
    told = tariff(
        {"per_gpu_second": str(amount)}, max_ongoing_requests=places, tensor_parallel_size=gpus
    )
    exact = Fraction(amount) * gpus / places * Fraction(seconds) * NANOS
    cost = told.cost_nanos(Usage(0, 0), seconds=seconds)
    # The price of a second is a double: fifteen digits of it are right.
    assert abs(cost - math.ceil(exact)) <= 1 + exact / 10**15


@given(PRICES | GPU_PRICES, usages(), usages(), SECONDS, SECONDS)
def test_nothing_costs_more_than_the_most_it_could(
    price: Price, usage: Usage, more: Usage, one_s: float, other_s: float
) -> None:
    told = tariff(price, max_ongoing_requests=3)
    most = told.most_nanos(
        Usage(
            usage.prompt_tokens + more.prompt_tokens,
            usage.completion_tokens + more.completion_tokens,
        ),
        seconds=max(one_s, other_s),
    )
    assert told.cost_nanos(usage, seconds=min(one_s, other_s)) <= most


@given(PRICES, usages())
def test_the_most_is_no_more_than_its_usage_would_cost(price: Price, usage: Usage) -> None:
    """A budget must admit whatever it can pay for."""
    told = tariff(price)
    most = told.most_nanos(usage, seconds=0)
    worst = [
        Usage(usage.prompt_tokens, usage.completion_tokens, cached)
        for cached in (0, usage.prompt_tokens)
    ]
    assert most == max(told.cost_nanos(one, seconds=0) for one in worst)


@pytest.mark.parametrize(
    ("price", "nanos"),
    [
        ({"input_per_million": "2"}, 100 * 2000),
        ({"input_per_million": "2", "cached_input_per_million": "0.5"}, 40 * 2000 + 60 * 500),
        ({"input_per_million": "2", "cached_input_per_million": "0"}, 40 * 2000),
        ({"input_per_million": "0", "cached_input_per_million": "3"}, 60 * 3000),
    ],
    ids=["as the others", "cheaper", "free", "dearer"],
)
def test_cached_tokens_have_a_price_of_their_own_or_that_of_the_others(
    price: dict[str, str], nanos: int
) -> None:
    assert tariff(price).cost_nanos(Usage(100, 0, cached_tokens=60), seconds=0) == nanos


def test_more_cached_tokens_than_there_are_of_the_prompt_give_nothing_back() -> None:
    told = tariff({"input_per_million": "2", "cached_input_per_million": "1"})
    assert told.cost_nanos(Usage(10, 0, cached_tokens=99), seconds=0) == 10 * 1000


def test_tokens_of_prompt_and_answer_are_rounded_together() -> None:
    told = tariff({"input_per_million": "0.000400", "output_per_million": "0.000400"})
    assert told.cost_nanos(Usage(1, 1), seconds=0) == 1


def test_model_without_a_price_costs_nothing() -> None:
    told = tariff({})
    assert told.cost_nanos(Usage(10**6, 10**6), seconds=1e6) == 0
    assert told.most_nanos(Usage(10**6, 10**6), seconds=1e6) == 0


def test_second_costs_one_place_of_all_that_a_replica_s_gpus_have() -> None:
    told = tariff(
        {"per_gpu_second": "0.002"},
        max_ongoing_requests=8,
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        replicas=3,
    )
    assert told.cost_nanos(Usage(0, 0), seconds=1.5) == 3_000_000


def test_costs_are_whole_numbers() -> None:
    told = tariff({"input_per_million": "0.3", "per_gpu_second": "0.1"}, max_ongoing_requests=3)
    assert type(told.cost_nanos(Usage(7, 0), seconds=0.1)) is int
    assert type(told.most_nanos(Usage(7, 0), seconds=0.1)) is int
