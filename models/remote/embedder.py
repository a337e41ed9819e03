"""An embedding model in another process, reached through a Ray Serve handle.

Turns values back into errors, Ray's failures into ours, and a cancelled call into a cancelled
request. Imports neither torch nor sentence-transformers.
"""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from models.embedding.embedder import Embeddings, Inputs
from models.remote.engine import answer_of


class RemoteEmbedder:
    """`Embedder` over a Serve handle.

    Args:
        handle: of an `EmbedderServer`.
        timeout_s: for a whole request, queueing included.
    """

    def __init__(self, handle: DeploymentHandle, *, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def embed(self, inputs: Inputs) -> Embeddings:
        """See `Embedder.embed`; what the deployment cannot do is told as in `RemoteEngine`."""
        answer: Embeddings = await answer_of(
            self._handle.embed.remote(inputs), timeout_s=self._timeout_s
        )
        return answer
