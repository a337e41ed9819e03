"""Passages: chunks that were found, with what an answer may say of where they are from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that a reader may see.

    `score` is 0 to 1; `cosine` is -1 to 1, and None of what only its words have found.
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
    """Passages of several questions, each once with its best score; best first, `limit` at most."""
    best: dict[int, Passage] = {}
    for passage in (passage for found in results for passage in found):
        kept = best.get(passage.chunk_id)
        if kept is None or _place(passage) < _place(kept):
            best[passage.chunk_id] = passage
    return sorted(best.values(), key=_place)[:limit]


def citations(used: Sequence[Passage]) -> list[dict[str, Any]]:
    """Annotations that tell where `used` are from; `[1]` in an answer means the one of index 0."""
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
