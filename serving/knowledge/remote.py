"""Retrieval in another process, reached through a Ray Serve handle. Imports no index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.serve.handle import DeploymentHandle

from models.background import LoopState
from models.engine import EngineError
from rag.errors import RagError
from rag.index.protocols import Collection
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits, LexicalRequest, SearchRequest
from serving.knowledge.curation import ReembeddingFacts, StoreFacts
from serving.knowledge.error_values import from_wire

SPARE_S = 5.0
"""Time for the transport of a call, beyond the call's own."""

WAKE_S = 5.0
CURATION_S = 120.0
"""Deadline of an operator's question: a check reads everything."""


class RemoteKnowledge:
    """Searches, makes collections, and curates (`Index`, `Collections` and `Curator`).

    Args:
        handle: of a `KnowledgeServer`.
        curator: of the one that looks after the stores.
        timeout_s: for a search.
    """

    def __init__(
        self, handle: DeploymentHandle, curator: DeploymentHandle, *, timeout_s: float
    ) -> None:
        self._handle = handle
        self._curator = curator
        self._timeout_s = timeout_s + SPARE_S
        self._waking: set[asyncio.Task[None]] = set()

    async def lexical(self, request: LexicalRequest) -> Sequence[LexicalHits]:
        """See `Index`."""
        return await from_wire(self._handle.lexical.remote(request), timeout_s=self._timeout_s)

    async def search(self, request: SearchRequest) -> Sequence[Passage]:
        """See `Index`."""
        return await from_wire(self._handle.search.remote(request), timeout_s=self._timeout_s)

    async def create(self, collection: Collection) -> None:
        """See `Collections`."""
        await from_wire(self._handle.create.remote(collection), timeout_s=self._timeout_s)

    def wake(self) -> None:
        """Announce work without waiting. Lost announcements are made good a second later."""
        if self._waking:
            return
        task = asyncio.create_task(self._wake())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    async def stores(self) -> Sequence[StoreFacts]:
        """See `Curator`."""
        return await from_wire(self._curator.stores.remote(), timeout_s=CURATION_S)

    async def reembed(self, store_id: str, model: str, *, force: bool) -> ReembeddingFacts:
        """See `Curator`."""
        call = self._curator.reembed.remote(store_id, model, force)
        return await from_wire(call, timeout_s=CURATION_S)

    async def reembedding(self, store_id: str) -> ReembeddingFacts:
        """See `Curator`."""
        return await from_wire(self._curator.reembedding.remote(store_id), timeout_s=CURATION_S)

    async def rollback(self, store_id: str) -> ReembeddingFacts:
        """See `Curator`."""
        return await from_wire(self._curator.rollback.remote(store_id), timeout_s=CURATION_S)

    async def drift(self, store_id: str) -> dict[str, Any]:
        """See `Curator`."""
        return await from_wire(self._curator.drift.remote(store_id), timeout_s=CURATION_S)

    async def check(self) -> Sequence[str]:
        """See `Curator`."""
        return await from_wire(self._curator.check.remote(), timeout_s=CURATION_S)

    async def loops(self) -> Sequence[LoopState]:
        """How what runs beside searches fares. Raises as `Curator` does."""
        return await from_wire(self._curator.loops.remote(), timeout_s=WAKE_S)

    async def _wake(self) -> None:
        with suppress(RagError, EngineError):
            await from_wire(self._curator.wake.remote(), timeout_s=WAKE_S)
