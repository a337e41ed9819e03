from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import Refused
from rag.search.fusion import K, RankedChunks, Weights, fused, in_order

chunks = st.lists(st.integers(1, 50), unique=True, max_size=20)


def test_fusion_gives_1_to_what_is_first_everywhere() -> None:
    scores = fused([RankedChunks(1.0, [7, 8]), RankedChunks(3.0, [7, 9])])
    assert scores[7] == 1.0


def test_fusion_adds_shares_that_fall_with_the_place() -> None:
    scores = fused([RankedChunks(1.0, [1, 2]), RankedChunks(1.0, [2, 3])])
    first, second = 0.5, 0.5 * (K + 1) / (K + 2)
    assert scores == pytest.approx({1: first, 2: second + first, 3: second})


def test_fusion_prefers_the_ranking_of_more_weight() -> None:
    scores = fused([RankedChunks(1.0, [1]), RankedChunks(2.0, [2])])
    assert in_order(scores, {}) == [2, 1]


def test_fusion_leaves_out_a_ranking_without_weight() -> None:
    assert fused([RankedChunks(0.0, [1]), RankedChunks(1.0, [2])]) == {2: 1.0}


def test_fusion_of_rankings_that_exclude_each_other_still_reaches_1() -> None:
    dense, of_one_store, of_another = (
        RankedChunks(1.0, [1, 2]),
        RankedChunks(1.0, [1]),
        RankedChunks(1.0, [2]),
    )
    assert fused([dense, of_one_store, of_another], total=2.0)[1] == 1.0


def test_ties_go_to_the_better_cosine_and_then_to_the_lower_id() -> None:
    scores = {4: 0.5, 3: 0.5, 2: 0.5, 1: 0.5}
    assert in_order(scores, {4: 0.9, 2: -0.5}) == [4, 2, 1, 3]


@given(st.lists(st.tuples(st.floats(0.1, 10), chunks), max_size=4))
def test_scores_are_above_0_and_at_most_1(drawn: list[tuple[float, list[int]]]) -> None:
    scores = fused([RankedChunks(weight, found) for weight, found in drawn])
    assert all(0 < score <= 1 + 1e-9 for score in scores.values())
    assert scores.keys() == {chunk for _, found in drawn for chunk in found}


@pytest.mark.parametrize(
    ("embedding", "text"), [(0, 0), (-1, 1), (1, -0.1), (math.nan, 1), (math.inf, 1)]
)
def test_weights_that_mean_nothing_are_refused(embedding: float, text: float) -> None:
    with pytest.raises(Refused) as caught:
        Weights(embedding, text)
    assert caught.value.param == "ranking_options.hybrid_search"
