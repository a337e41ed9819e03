"""Passages: chunks that a search found, with the source information for citations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that the reader may see.

    `score` is from 0 to 1. `cosine` is from -1 to 1, and None if only full text found the chunk.
    """

    store_id: str
    file_id: str
    filename: str
    attributes: Mapping[str, Any]
    privacy: str
    page: int | None
    position: int
    chunk_id: int
    text: str
    score: float
    cosine: float | None


def merged(results: Iterable[Sequence[Passage]], limit: int) -> list[Passage]:
    """Merge results of several questions: each passage once by its best score, at most `limit`."""
    best: dict[int, Passage] = {}
    for passage in (passage for found in results for passage in found):
        kept = best.get(passage.chunk_id)
        if kept is None or _place(passage) < _place(kept):
            best[passage.chunk_id] = passage
    return sorted(best.values(), key=_place)[:limit]


def citations(used: Sequence[Passage]) -> list[dict[str, Any]]:
    """Return citation annotations for `used`; `[1]` in an answer refers to index 0."""
    return [
        {
            "type": "file_citation",
            "file_id": passage.file_id,
            "filename": passage.filename,
            "index": index,
            "page": passage.page,
            "passage": passage.position,
            "score": passage.score,
        }
        for index, passage in enumerate(used)
    ]


def _place(passage: Passage) -> tuple[float, float, int]:
    cosine = -2.0 if passage.cosine is None else passage.cosine
    return -passage.score, -cosine, passage.chunk_id
