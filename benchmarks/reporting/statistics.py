"""Statistics of repeated measurements: percentiles, and ratios per round with their interval.

Pure functions of numbers. Does not know what was measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

RESAMPLES = 10_000
CONFIDENCE = 0.95


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the `percent`-th percentile (0 to 100), interpolated linearly like numpy's default.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a percentile of no values")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def round_ratios(arm: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, ...]:
    """Return `arm / baseline` of each round that both have, in order of rounds.

    Ratios within a round cancel slowdowns of the machine that last longer than a round.
    """
    return tuple(arm[number] / baseline[number] for number in sorted(arm.keys() & baseline.keys()))


@dataclass(frozen=True, slots=True)
class Ratio:
    """A geometric mean of per-round ratios with its bootstrap confidence interval.

    With fewer than three rounds, the interval is only the range of the rounds.
    """

    mean: float
    low: float
    high: float
    rounds: int


def ratio(ratios: Sequence[float], *, seed: int) -> Ratio:
    """Return the geometric mean of `ratios` and its 95 % bootstrap interval (Efron, 1979).

    Raises:
        ValueError: `ratios` is empty or has a value that is not positive.
    """
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"a geometric mean needs positive values: {list(ratios)!r}")
    # Resampling needs no cryptographic randomness.
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
    """Distribution of a quantity, in the quantity's unit."""

    count: int
    p50: float
    p99: float


def summarise(values: Sequence[float]) -> Summary:
    """Return count, median and 99th percentile of `values`.

    Raises:
        ValueError: `values` is empty.
    """
    return Summary(count=len(values), p50=percentile(values, 50), p99=percentile(values, 99))
