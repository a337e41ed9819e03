"""A reranker in another process, reached through a Ray Serve handle.

Converts failure values and Ray's errors into our errors, and a cancelled call into a cancelled
request. Imports neither torch nor sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.handle import DeploymentHandle

from models.remote.engine import answer_of


class RemoteReranker:
    """A `Reranker` over a Serve handle.

    Args:
        handle: handle of a `RerankerServer`.
        timeout_s: deadline of a request in seconds, including its wait in the queue.
    """

    def __init__(self, handle: DeploymentHandle, *, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """See `Reranker.rerank`. Failures of the deployment raise the errors of `RemoteEngine`."""
        scores: list[float] = await answer_of(
            self._handle.rerank.remote(question, list(texts)), timeout_s=self._timeout_s
        )
        return scores
