"""The order of a comparison: every second round reverses the order of the one before (ABBA).

A drift of the machine over two rounds then affects all entries equally. Knows nothing of entries.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def alternating(entries: Sequence[T], *, rounds: int, seed: int) -> Iterator[tuple[int, list[T]]]:
    """Yield number and order of each round; every first of two is drawn from `seed`."""
    # A random order needs no cryptographic randomness.
    source = random.Random(seed)  # noqa: S311
    order = list(entries)
    for number in range(rounds):
        if number % 2:
            order.reverse()
        else:
            source.shuffle(order)
        yield number, list(order)
