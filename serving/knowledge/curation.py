"""Curation: an operator's questions about vector stores, and their answers. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

KNOWLEDGE = "Knowledge"
"""The name of the deployment that owns the indexes."""

CURATOR = "Curator"
"""The deployment that looks after the indexes where several replicas search."""

Phase = Literal["none", "running", "complete", "swapped", "failed"]


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """A vector store, as an operator sees it.

    Attributes:
        mismatch: why its embedder is not the one that made its vectors; None: it is.
    """

    id: str
    tenant: str
    name: str
    generation: str | None
    model: str | None
    mismatch: str | None


@dataclass(frozen=True, slots=True)
class ReembeddingFacts:
    """Progress of a store's re-embedding, or the result of the last one.

    Attributes:
        recall: found_before, found_after and overlap of a sample, once compared.
        error: why it failed.
    """

    phase: Phase
    model: str | None = None
    done: int = 0
    total: int = 0
    recall: dict[str, float | int | None] | None = None
    error: str | None = None


class Curator(Protocol):
    """Looks after vector stores. Every call raises `RagError` or `EngineError`, and has a deadline.

    Stores are named by their ids.
    """

    async def stores(self) -> Sequence[StoreFacts]:
        """Return all stores of all tenants, by id."""
        ...

    async def reembed(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        """Begin a re-embedding, or continue one with the same model."""
        ...

    async def reembedding(self, store_id: str) -> ReembeddingFacts:
        """Return the progress of a re-embedding."""
        ...

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        """Begin to bring the previous vectors up to date; then they are searched."""
        ...

    async def drift(self, store_id: str) -> dict[str, Any]:
        """The report of now."""
        ...

    async def check(self) -> Sequence[str]:
        """Return the differences between the indexes and the database."""
        ...
