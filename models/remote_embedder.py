"""An embedding model in another process, reached through a Ray Serve handle.

Turns values back into errors, Ray's failures into ours, and a cancelled call into a cancelled
request. Imports neither torch nor sentence-transformers.
"""

from __future__ import annotations

import asyncio

from ray.serve.handle import DeploymentHandle

from models.embedder import Embeddings, Inputs
from models.engine import EngineTimeout, Failure
from models.remote_engine import UNREACHABLE, engine_error


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
        response = self._handle.embed.remote(inputs)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer: Embeddings | Failure = await response
        except TimeoutError:
            response.cancel()
            message = f"The embedding model did not answer within {self._timeout_s:g} s."
            raise EngineTimeout(message) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except UNREACHABLE as error:
            raise engine_error(error) from None
        if isinstance(answer, Failure):
            raise answer.exception()
        return answer
