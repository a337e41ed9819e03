"""Reciprocal rank fusion: combines several rankings using ranks only. Knows no index."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.errors import Refused

K = 60
"""Constant of the fusion: higher values reduce the advantage of top ranks. 60 is the paper's value;
on the even-numbered Cranfield queries, 20 to 100 differ by less than 0.003 nDCG@10."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of vector search and full-text search: the API's `hybrid_search`.

    Raises:
        Refused: a weight is negative or not finite, or both are 0.
    """

    embedding: float = 1.0
    text: float = 1.0

    def __post_init__(self) -> None:
        both = (self.embedding, self.text)
        if not all(math.isfinite(weight) and weight >= 0 for weight in both) or not any(both):
            raise Refused(
                "Weights must not be negative, and one of them must be above 0.",
                param="ranking_options.hybrid_search",
            )


@dataclass(frozen=True, slots=True)
class RankedChunks:
    """Distinct chunk ids, best first, and the weight of their ranks."""

    weight: float
    chunks: Sequence[int]


def fused(rankings: Sequence[RankedChunks], *, total: float | None = None) -> dict[int, float]:
    """Return a score from 0 to 1 for each chunk (Cormack et al., 2009). Rank 1 everywhere scores 1.

    Args:
        rankings: the rankings to combine; a chunk gets nothing from a ranking that lacks it.
        total: sum of weights that a chunk can reach; default: the sum over all rankings. It is
            lower
            if rankings exclude each other, such as those of different vector stores.
    """
    if total is None:
        total = sum(ranking.weight for ranking in rankings)
    scores: dict[int, float] = {}
    for ranking in rankings:
        if ranking.weight == 0:
            continue
        for place, chunk in enumerate(ranking.chunks, 1):
            share = ranking.weight / total * (K + 1) / (K + place)
            scores[chunk] = scores.get(chunk, 0.0) + share
    return scores


def in_order(scores: Mapping[int, float], cosines: Mapping[int, float]) -> list[int]:
    """Sort chunks by descending score, then by descending cosine, then by id."""
    return sorted(scores, key=lambda chunk: (-scores[chunk], -cosines.get(chunk, -2.0), chunk))
