"""Statistics of repeated measurements: percentiles, ratios of rounds and their interval.

Pure functions of numbers; knows nothing of what was measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

RESAMPLES = 10_000
CONFIDENCE = 0.95


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile (0 to 100), linear between ranks as numpy's default.

    Raises:
        ValueError: If `values` is empty.
    """
    if not values:
        raise ValueError("a percentile of no values")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def round_ratios(arm: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, ...]:
    """`arm / baseline` of each round both have, in order of rounds.

    Ratios inside a round cancel what slows the whole machine for longer than a round.
    """
    return tuple(arm[number] / baseline[number] for number in sorted(arm.keys() & baseline.keys()))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of per-round ratios with its bootstrap confidence interval.

    With fewer than three rounds the interval is no more than the rounds' range.
    """

    mean: float
    low: float
    high: float
    rounds: int


def ratio(ratios: Sequence[float], *, seed: int) -> Ratio:
    """Geometric mean of `ratios` and its 95 % percentile bootstrap interval (Efron, 1979).

    Raises:
        ValueError: If `ratios` is empty or has a value that is not positive.
    """
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"a geometric mean needs positive values: {list(ratios)!r}")
    # Resampling, not a secret.
    source = random.Random(seed)  # noqa: S311
    means = [geometric_mean(source.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    tail_percent = (1 - CONFIDENCE) / 2 * 100
    return Ratio(
        mean=geometric_mean(ratios),
        low=percentile(means, tail_percent),
        high=percentile(means, 100 - tail_percent),
        rounds=len(ratios),
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """Distribution of a quantity, in its own unit."""

    count: int
    p50: float
    p99: float


def summarise(values: Sequence[float]) -> Summary:
    """Count, median and 99th percentile of `values`.

    Raises:
        ValueError: If `values` is empty.
    """
    return Summary(count=len(values), p50=percentile(values, 50), p99=percentile(values, 99))
