"""Checks that the served embedders made a store's vectors. The answers are cached for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.embedding.embedder import Embedder, Embeddings, Inputs
from rag.errors import EmbedderMismatch
from rag.index.embedder_versions import ServedEmbedder, mismatch
from rag.index.protocols import Generation

FRESH_S = 300.0
"""Seconds for which a check of an embedder is trusted."""


class EmbedderChecks:
    """Compares vectors of fixed texts. One embedding of them serves all stores for `FRESH_S`.

    Args:
        embedders: the embedders that are served, by model.
        clock: returns seconds.
    """

    def __init__(
        self, embedders: Mapping[str, ServedEmbedder], *, clock: Callable[[], float]
    ) -> None:
        self._embedders = embedders
        self._clock = clock
        self._known: dict[str, _CachingEmbedder] = {}

    async def refusal(self, generation: Generation) -> str | None:
        """Return why the vectors cannot be used, and the command that helps; None if they can.

        Raises:
            EngineError: the embedder failed, so the answer is unknown.
        """
        served = self._embedders.get(generation.model)
        if served is None:
            return await mismatch(generation, None, None)
        known = self._known.get(generation.model)
        if known is None or known.embedder is not served.embedder or known.since < self._old():
            known = _CachingEmbedder(served.embedder, self._clock())
            self._known[generation.model] = known
        return await mismatch(generation, known, served.revision)

    async def refuse(self, generation: Generation) -> None:
        """Raise unless the served embedder made the vectors.

        Raises:
            EmbedderMismatch: another embedder made the vectors.
            EngineError: the embedder failed.
        """
        if (reason := await self.refusal(generation)) is not None:
            raise EmbedderMismatch(reason)

    def _old(self) -> float:
        return self._clock() - FRESH_S


class _CachingEmbedder:
    """Wraps an embedder and embeds the fixed texts only once."""

    def __init__(self, embedder: Embedder, since: float) -> None:
        self.embedder = embedder
        self.since = since
        self._made: Embeddings | None = None

    async def embed(self, inputs: Inputs) -> Embeddings:
        if self._made is None:
            self._made = await self.embedder.embed(inputs)
        return self._made
