"""An embedder in another process, reached through a Ray Serve handle.

Converts failure values and Ray's errors into our errors, and a cancelled call into a cancelled
request. Imports neither torch nor sentence-transformers.
"""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from models.embedding.embedder import Embeddings, Inputs
from models.remote.engine import answer_of


class RemoteEmbedder:
    """An `Embedder` over a Serve handle.

    Args:
        handle: handle of an `EmbedderServer`.
        timeout_s: deadline of a request in seconds, including its wait in the queue.
    """

    def __init__(self, handle: DeploymentHandle, *, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def embed(self, inputs: Inputs) -> Embeddings:
        """See `Embedder.embed`. Failures of the deployment raise the errors of `RemoteEngine`."""
        answer: Embeddings = await answer_of(
            self._handle.embed.remote(inputs), timeout_s=self._timeout_s
        )
        return answer
