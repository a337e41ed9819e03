"""The order of a comparison: every second round is the reverse of the one before it (ABBA).

A drift of the machine over two rounds then falls on every entry alike. Knows nothing of entries.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def alternating(entries: Sequence[T], *, rounds: int, seed: int) -> Iterator[tuple[int, list[T]]]:
    """Number and order of each round; the order of every first of two is drawn from `seed`."""
    # An order, not a secret.
    source = random.Random(seed)  # noqa: S311
    order = list(entries)
    for number in range(rounds):
        if number % 2:
            order.reverse()
        else:
            source.shuffle(order)
        yield number, list(order)
