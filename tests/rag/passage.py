"""A passage for tests."""

from __future__ import annotations

from rag.search.passages import Passage


def passage(
    chunk_id: int = 1,
    text: str = "Wings lift.",
    *,
    filename: str = "wings.pdf",
    page: int | None = 3,
    score: float = 0.5,
    cosine: float | None = 0.25,
) -> Passage:
    return Passage(
        store_id="vs_1",
        file_id=f"file-{chunk_id}",
        filename=filename,
        attributes={},
        privacy="local_only",
        page=page,
        position=chunk_id + 10,
        chunk_id=chunk_id,
        text=text,
        score=score,
        cosine=cosine,
    )
