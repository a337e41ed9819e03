"""A reranker in another process, reached through a Ray Serve handle.

Turns values back into errors, Ray's failures into ours, and a cancelled call into a cancelled
request. Imports neither torch nor sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.handle import DeploymentHandle

from models.remote.engine import answer_of


class RemoteReranker:
    """`Reranker` over a Serve handle.

    Args:
        handle: of a `RerankerServer`.
        timeout_s: for a whole request, queueing included.
    """

    def __init__(self, handle: DeploymentHandle, *, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """See `Reranker.rerank`; what the deployment cannot do is told as in `RemoteEngine`."""
        scores: list[float] = await answer_of(
            self._handle.rerank.remote(question, list(texts)), timeout_s=self._timeout_s
        )
        return scores
