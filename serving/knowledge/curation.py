"""Curation: what an operator may ask about vector stores, and what is answered. Values only."""

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
    """One vector store, as an operator sees it.

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
    """How far the re-embedding of a store is, or how the last one ended.

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
        """All stores of all tenants, by id."""
        ...

    async def reembed(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        """Begin, or go on with one that was begun with the same model."""
        ...

    async def reembedding(self, store_id: str) -> ReembeddingFacts:
        """How far it is."""
        ...

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        """Begin to bring the previous vectors up to date; then they are searched."""
        ...

    async def drift(self, store_id: str) -> dict[str, Any]:
        """The report of now."""
        ...

    async def check(self) -> Sequence[str]:
        """Where the indexes and the database disagree; nothing where they agree."""
        ...
