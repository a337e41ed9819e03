"""The Serve deployment of an embedding model; batches requests dynamically.

Errors are returned as `Failure` values: Ray would log raised ones with their text, which may
contain a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.catalog import ModelSpec
from models.embedding.embedder import Embeddings, Inputs, SentenceEmbedder
from models.engine import EngineError, EngineFailed, Failure
from models.prepare import prepare

if TYPE_CHECKING:
    from ray.serve import Application

logger = logging.getLogger(__name__)

Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """Settings of an embedding model's deployment.

    Attributes:
        threads: CPU threads of one operation.
        cpus: CPUs that Ray reserves for a replica; used for scheduling only.
        token_budget: padded tokens of a batch; None selects `TOKEN_BUDGET` of the device.
        max_batch_size: maximum number of merged requests.
        batch_wait_timeout_s: seconds that the first request waits for others.
    """

    threads: int = 1
    cpus: float = 0.1
    token_budget: int | None = None
    max_batch_size: int = 32
    batch_wait_timeout_s: float = 0.004


class EmbedderServer:
    """Serves one embedding model, and merges concurrent requests into batches.

    A request that fills the token budget alone would gain nothing from merging and goes to the
    model
    directly.

    Args:
        spec: the model.
        source: its directory, or a Hugging Face id in this node's cache.
        options: the deployment's settings.
    """

    def __init__(self, spec: ModelSpec, source: str | Path, options: EmbedderOptions) -> None:
        from ray import serve  # noqa: PLC0415  Only where it runs.

        from models.ray_binding import bind_to_node  # noqa: PLC0415

        bind_to_node()
        self._embedder = SentenceEmbedder(
            spec,
            source if isinstance(source, Path) else prepare(spec, Path()),
            threads=options.threads,
            token_budget=options.token_budget,
        )
        self._batched = serve.batch(
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait_timeout_s,
        )(self._embed_together)

    async def embed(self, inputs: Inputs) -> Embeddings | Failure:
        """Run `Embedder.embed` for a Serve handle."""
        try:
            ids = await self._embedder.encode(inputs)
            if sum(map(len, ids)) >= self._embedder.token_budget:
                return await self._embedder.embed_ids(ids)
            merged: Embeddings = await self._batched(ids)
        except EngineError as error:
            return Failure.of(error)
        except RuntimeError as error:  # torch raises it, for example if memory runs out.
            logger.error("embedding failed: %s", type(error).__name__)  # noqa: TRY400  No text.
            return Failure(EngineFailed, "The embedding model failed.")
        return merged

    async def _embed_together(self, requests: Sequence[Ids]) -> list[Embeddings]:
        """Embed the inputs of several requests as one, and split the result."""
        together = await self._embedder.embed_ids([ids for request in requests for ids in request])
        ends = np.cumsum([len(request) for request in requests])
        return [
            Embeddings(vectors, [len(ids) for ids in request])
            for vectors, request in zip(
                np.split(together.vectors, ends[:-1]), requests, strict=True
            )
        ]


def build_embedder(
    spec: ModelSpec,
    source: str | Path,
    *,
    drain_s: float,
    options: EmbedderOptions | None = None,
) -> Application:
    """Build the Serve application of one embedding model, named `Embedder:<model>`.

    Args:
        spec: the model, with its replica and queue limits.
        source: the result of `prepare`, or a Hugging Face id in the cache of the replica's node.
        drain_s: seconds for running requests when a replica stops.
        options: the deployment's settings.
    """
    from ray import serve  # noqa: PLC0415  Importing this module stays cheap.

    options = options or EmbedderOptions()
    actor: dict[str, Any] = {"num_cpus": options.cpus}
    if spec.device == "gpu":
        actor["num_gpus"] = 1
    if spec.accelerator_type:
        actor["accelerator_type"] = spec.accelerator_type
    deployment = serve.deployment(EmbedderServer).options(
        name=spec.deployment_name,
        ray_actor_options=actor,
        **spec.scaling(drain_s=drain_s),
    )
    return deployment.bind(spec, source, options)
