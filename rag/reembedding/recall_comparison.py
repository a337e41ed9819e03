"""Compares two generations of a store by how well each finds the store's own chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag.index.embedder_versions import ServedEmbedder
from rag.index.protocols import Collection, VectorIndex

AT = 10
_MOST_LOST = 0.05


@dataclass(frozen=True, slots=True)
class RecallComparison:
    """Result of searching for a sample of chunks.

    Attributes:
        queries: number of chunks searched for.
        found_before: share of them that the old vectors rank in the first 10; None if the old
            embedder is no longer served.
        found_after: the same share for the new vectors.
        overlap: mean share of the old first 10 that are also in the new first 10.
    """

    queries: int
    found_before: float | None
    found_after: float
    overlap: float | None

    @property
    def acceptable(self) -> bool:
        """Whether the new vectors find their chunks. Models may rank other chunks differently."""
        before = 1.0 if self.found_before is None else self.found_before
        return self.queries == 0 or self.found_after >= before - _MOST_LOST


@dataclass(frozen=True, slots=True)
class ComparedGeneration:
    """One of the two generations: its collection and its embedder."""

    collection: Collection
    served: ServedEmbedder


async def compare(
    vectors: VectorIndex,
    before: ComparedGeneration | None,
    after: ComparedGeneration,
    chunks: Sequence[tuple[str, str]],
) -> RecallComparison:
    """Search for chunks, which are given as keys and texts.

    Raises:
        IndexUnavailable, EngineError: a search or an embedding failed.
    """
    new = [await _nearest(vectors, after, text) for _, text in chunks]
    keys = [key for key, _ in chunks]
    if before is None:
        return RecallComparison(len(chunks), None, _share(keys, new), None)
    old = [await _nearest(vectors, before, text) for _, text in chunks]
    pairs = zip(old, new, strict=True)
    overlaps = [len(set(a) & set(b)) / len(a) for a, b in pairs if a]
    overlap = float(np.mean(overlaps)) if overlaps else 1.0
    return RecallComparison(len(chunks), _share(keys, old), _share(keys, new), overlap)


async def _nearest(vectors: VectorIndex, side: ComparedGeneration, text: str) -> list[str]:
    window = side.served.windows(text)[:1]
    vector = (await side.served.embedder.embed(window)).vectors[0]
    hits = await vectors.search(side.collection, vector, limit=AT)
    return [hit.key for hit in hits]


def _share(keys: Sequence[str], found: Sequence[Sequence[str]]) -> float:
    if not keys:
        return 1.0
    return sum(key in hits for key, hits in zip(keys, found, strict=True)) / len(keys)
