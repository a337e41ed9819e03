"""Whether the embedders that are served made a store's vectors; found out now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.embedding.embedder import Embedder, Embeddings, Inputs
from rag.errors import EmbedderMismatch
from rag.index.embedder_versions import ServedEmbedder, mismatch
from rag.index.protocols import Generation

FRESH_S = 300.0
"""For which an embedder counts as the one that it was."""


class EmbedderChecks:
    """Compares vectors of fixed texts; an embedder makes them once in a while for all stores.

    Args:
        embedders: that are served, by model.
        clock: in seconds.
    """

    def __init__(
        self, embedders: Mapping[str, ServedEmbedder], *, clock: Callable[[], float]
    ) -> None:
        self._embedders = embedders
        self._clock = clock
        self._known: dict[str, _Remembering] = {}

    async def refusal(self, generation: Generation) -> str | None:
        """Why the vectors cannot be used, with the command that mends it; None: they can.

        Raises:
            EngineError: the embedder failed; nothing is known.
        """
        served = self._embedders.get(generation.model)
        if served is None:
            return await mismatch(generation, None, None)
        known = self._known.get(generation.model)
        if known is None or known.embedder is not served.embedder or known.since < self._old():
            known = _Remembering(served.embedder, self._clock())
            self._known[generation.model] = known
        return await mismatch(generation, known, served.revision)

    async def refuse(self, generation: Generation) -> None:
        """Go on only with the embedder that made the vectors.

        Raises:
            EmbedderMismatch: it is another.
            EngineError: the embedder failed.
        """
        if (reason := await self.refusal(generation)) is not None:
            raise EmbedderMismatch(reason)

    def _old(self) -> float:
        return self._clock() - FRESH_S


class _Remembering:
    """An embedder that is asked for the same texts again and again, and embeds them once."""

    def __init__(self, embedder: Embedder, since: float) -> None:
        self.embedder = embedder
        self.since = since
        self._made: Embeddings | None = None

    async def embed(self, inputs: Inputs) -> Embeddings:
        if self._made is None:
            self._made = await self.embedder.embed(inputs)
        return self._made
