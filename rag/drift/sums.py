"""Statistics of document and query vectors for drift: sums and counts, no text and no vector.

Vectors are projected on eight fixed directions, drawn from the generation's id. The bins of each
direction are the deciles of the documents; two samples are compared by their counts per bin.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 8
BINS = 10
SCORE_BINS = 20
LOW_COSINE = 0.3
"""Best hits below this cosine are unrelated, for the embedders that we know."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The statistics of a generation's documents.

    Attributes:
        sums: sums over a sample of their vectors.
        edges: inner deciles of each direction, `(DIRECTIONS, BINS - 1)`.
        directions: unit vectors `(DIRECTIONS, dimension)`, derived from the generation's id.
    """

    generation_id: str
    sums: Sums
    edges: Floats
    directions: Floats

    @classmethod
    def of(cls, generation_id: str, vectors: NDArray[np.float32]) -> Self:
        """Build a baseline from a sample `(n, dimension)` with n >= 1."""
        drawn = directions(generation_id, vectors.shape[1])
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        edges = np.quantile(vectors @ drawn.T, inner, axis=0).T
        empty = cls(generation_id, Sums.zero(vectors.shape[1]), edges, drawn)
        for vector in vectors:
            empty.sums.add(vector, empty, None)
        return empty

    @classmethod
    def from_facts(cls, generation_id: str, facts: dict[str, Any]) -> Self:
        """Restore a baseline from `facts`."""
        sums = Sums.from_facts(facts["sums"])
        drawn = directions(generation_id, len(sums.total))
        return cls(generation_id, sums, np.array(facts["edges"]), drawn)

    def facts(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"sums": self.sums.facts(), "edges": self.edges.tolist()}

    def bins(self, vector: NDArray[np.float32]) -> list[int]:
        """Return the bin of a vector in each direction."""
        values = self.directions @ vector
        return [int(np.searchsorted(row, x)) for row, x in zip(self.edges, values, strict=True)]


@dataclass(slots=True)
class Sums:
    """Sums over some vectors.

    Attributes:
        total: sum of the vectors, `(dimension,)`.
        bins: number of vectors in each bin, `(DIRECTIONS, BINS)`.
        scores: histogram of best cosines from 0 to 1, `(SCORE_BINS,)`; outliers are in the end
            bins.
        low: number of best cosines below `LOW_COSINE`.
    """

    total: Floats
    count: int = 0
    low: int = 0
    bins: Floats = field(default_factory=lambda: np.zeros((DIRECTIONS, BINS)))
    scores: Floats = field(default_factory=lambda: np.zeros(SCORE_BINS))

    @classmethod
    def zero(cls, dimension: int) -> Self:
        """Return sums over no vectors."""
        return cls(np.zeros(dimension))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """Restore sums from `facts`."""
        arrays = {name: np.array(facts[name], float) for name in ("total", "bins", "scores")}
        return cls(**arrays, count=facts["count"], low=facts["low"])

    def facts(self) -> dict[str, Any]:
        """Convert to JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in ("total", "bins", "scores")}
        return arrays | {"count": self.count, "low": self.low}

    def add(
        self, vector: NDArray[np.float32], baseline: Baseline, best_cosine: float | None
    ) -> None:
        """Count one vector, and the cosine of its best hit, if any."""
        self.total += vector
        self.count += 1
        self.bins[range(DIRECTIONS), baseline.bins(vector)] += 1
        cosine = -1.0 if best_cosine is None else best_cosine
        self.scores[min(max(int(cosine * SCORE_BINS), 0), SCORE_BINS - 1)] += 1
        self.low += cosine < LOW_COSINE

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both samples."""
        return Sums(
            self.total + other.total,
            self.count + other.count,
            self.low + other.low,
            self.bins + other.bins,
            self.scores + other.scores,
        )


def directions(generation_id: str, dimension: int) -> Floats:
    """Return unit vectors `(DIRECTIONS, dimension)` that are the same for the same id."""
    seed = int.from_bytes(hashlib.sha256(generation_id.encode()).digest()[:8])
    drawn = np.random.default_rng(seed).normal(size=(DIRECTIONS, dimension))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def centroid_shift(one: Sums, other: Sums) -> float:
    """Return the squared distance of two means of unit vectors, 0 to 4, without sampling noise.

    The squared error of a mean of n unit vectors is (1 - |mean|²) / n on average. It is subtracted,
    so that two samples of the same distribution are close to 0.
    """
    noise, means = 0.0, []
    for sums in (one, other):
        mean = sums.total / sums.count
        noise += (1 - float(mean @ mean)) / sums.count
        means.append(mean)
    difference = means[0] - means[1]
    return max(0.0, float(difference @ difference) - noise)


def stability_index(one: Sums, other: Sums) -> float:
    """Return the population stability index, averaged over the directions, without sampling noise.

    By convention, less than 0.1 is stable and more than 0.25 is a shift. Two samples of the same
    distribution have an index of (bins - 1) (1/n + 1/m) on average (Yurdakul, 2018), which is
    subtracted.
    """
    shares = [(sums.bins + 0.5) / (sums.count + 0.5 * BINS) for sums in (one, other)]
    each = ((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum(axis=1)
    return max(0.0, float(each.mean()) - (BINS - 1) * (1 / one.count + 1 / other.count))
