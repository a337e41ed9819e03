"""`/v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from models.embedding.embedder import Embeddings
from serving.config import LimitSettings
from serving.domain.calls import EmbeddingCall
from serving.domain.principal import Principal
from serving.gateway.edge import Edge, principal
from serving.gateway.headers import answer_headers
from serving.gateway.streaming import Deferred, send_json
from serving.gateway.wire.chat import EmbeddingRequest
from serving.gateway.wire.options import options, privacy
from serving.pipeline import Pipeline


def router(pipeline: Pipeline, edge: Edge, *, limits: LimitSettings) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/embeddings")
    async def create_embeddings(request: Request) -> Response:
        """Embed texts, in their order."""
        await edge.admit(request)

        async def make(wire: EmbeddingRequest) -> Response:
            return _response(_call(request, principal(request), wire), wire)

        return await edge.once(
            request, EmbeddingRequest, make, check=lambda wire: wire.check(limits)
        )

    def _response(call: EmbeddingCall, wire: EmbeddingRequest) -> Response:
        async def produce(send: Send) -> None:
            embeddings, origin, quota = await pipeline.embed(call)
            headers = answer_headers(origin, quota)
            await send_json(send, render(embeddings, wire), headers=headers)

        return Deferred(produce)

    return routes


def _call(request: Request, caller: Principal, wire: EmbeddingRequest) -> EmbeddingCall:
    return EmbeddingCall(
        request_id=request.scope["request_id"],
        principal=caller,
        model=wire.model,
        inputs=wire.inputs(),
        dimensions=wire.dimensions,
        options=options(request),
        privacy=privacy(request, caller, wire.privacy),
    )


def render(embeddings: Embeddings, wire: EmbeddingRequest) -> dict[str, Any]:
    """OpenAI's list of embeddings, in the order of the input."""
    vectors = shortened(embeddings.vectors, wire.dimensions)
    tokens = sum(embeddings.token_counts)
    return {
        "object": "list",
        "model": wire.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, wire)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def shortened(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` of each vector, scaled to length 1 again: `(n, dimensions)`."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.maximum(lengths, 1e-12), dtype=np.float32)


def _encoded(vector: NDArray[np.float32], wire: EmbeddingRequest) -> list[float] | str:
    if wire.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    floats: list[float] = vector.tolist()
    return floats
