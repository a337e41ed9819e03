"""Spans of personal data in a text, and the protocol of a detector.

Offsets are of code points, as in Python. Knows nothing of models, patterns or what happens to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.domain.privacy_class import ENTITY_TYPES, EntityType

__all__ = ["ENTITY_TYPES", "Detector", "DetectorUnavailable", "EntityType", "Span", "merged"]


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` is of that type. `score`: 0 to 1."""

    start: int
    end: int
    entity: EntityType
    score: float = 1.0


class DetectorUnavailable(Exception):
    """The detector is unavailable, so nothing may leave."""


class Detector(Protocol):
    """Finds personal data."""

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, in order, none of them overlapping.

        Raises:
            DetectorUnavailable: down, too slow or broken. No text is in the message.
        """
        ...


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans that do not overlap and cover all that these cover, in order.

    Where some overlap, the union is one span of the type that scored best; of equals the longest.
    """
    found: list[list[Span]] = []
    end = -1
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        if span.start < end:
            found[-1].append(span)
        elif span.end > span.start:
            found.append([span])
        end = max(end, span.end)
    return [_union(group) for group in found]


def _union(group: Sequence[Span]) -> Span:
    best = max(group, key=lambda one: (one.score, one.end - one.start))
    first, last = min(one.start for one in group), max(one.end for one in group)
    return Span(first, last, best.entity, best.score)
