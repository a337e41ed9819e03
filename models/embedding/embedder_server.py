"""The embedding model as a Ray Serve deployment: requests that arrive together run together.

Errors are returned as `Failure` values: Ray logs raised ones with their text, and that may hold a
prompt.
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
    """How an embedding model is run.

    Args:
        threads: of the CPU, for one operation.
        cpus: that Ray reserves for a replica; scheduling only.
        token_budget: padded tokens of one batch of the model; None: `TOKEN_BUDGET` of the device.
        max_batch_size: requests that are merged.
        batch_wait_timeout_s: how long the first of them waits for others.
    """

    threads: int = 1
    cpus: float = 0.1
    token_budget: int | None = None
    max_batch_size: int = 32
    batch_wait_timeout_s: float = 0.004


class EmbedderServer:
    """One embedding model behind our protocol, with dynamic batching over requests.

    A request that fills the token budget by itself gains nothing from company and goes to the
    model directly.

    Args:
        spec: the model.
        source: its directory, or the Hugging Face id in this node's cache.
        options: how to run it.
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
        """`Embedder.embed` for a Serve handle."""
        try:
            ids = await self._embedder.encode(inputs)
            if sum(map(len, ids)) >= self._embedder.token_budget:
                return await self._embedder.embed_ids(ids)
            merged: Embeddings = await self._batched(ids)
        except EngineError as error:
            return Failure.of(error)
        except RuntimeError as error:  # torch's, out of memory among them.
            logger.error("embedding failed: %s", type(error).__name__)  # noqa: TRY400  No text.
            return Failure(EngineFailed, "The embedding model failed.")
        return merged

    async def _embed_together(self, requests: Sequence[Ids]) -> list[Embeddings]:
        """Embed the inputs of several requests as one, and give each its own."""
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
    """The Serve application of one embedding model, named `Embedder:<model>`.

    Args:
        spec: the model; its replica and queue limits are applied.
        source: what `prepare` returned, or a Hugging Face id that the replica's node has cached.
        drain_s: for requests in progress when a replica is stopped.
        options: how to run it.
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
