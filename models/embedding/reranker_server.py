"""The Serve deployment of a reranker.

Errors are returned as `Failure` values: Ray would log raised ones with their text, which may
contain a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.catalog import ModelSpec
from models.embedding.reranker import CrossEncoderReranker
from models.engine import EngineFailed, Failure
from models.prepare import prepare

if TYPE_CHECKING:
    from ray.serve import Application

logger = logging.getLogger(__name__)

CPUS = 0.1
"""CPUs that Ray reserves for a replica; used for scheduling only."""


class RerankerServer:
    """Serves one reranker.

    Args:
        spec: the model.
        source: its directory, or a Hugging Face id in this node's cache.
        threads: CPU threads of one operation.
    """

    def __init__(self, spec: ModelSpec, source: str | Path, threads: int) -> None:
        from models.ray_binding import bind_to_node  # noqa: PLC0415  Only where Ray runs.

        bind_to_node()
        directory = source if isinstance(source, Path) else prepare(spec, Path())
        self._reranker = CrossEncoderReranker(spec, directory, threads=threads)

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float] | Failure:
        """Run `Reranker.rerank` for a Serve handle."""
        try:
            return await self._reranker.rerank(question, texts)
        except RuntimeError as error:  # torch raises it, for example if memory runs out.
            logger.error("reranking failed: %s", type(error).__name__)  # noqa: TRY400  No text.
            return Failure(EngineFailed, "The reranking model failed.")


def build_reranker(
    spec: ModelSpec, source: str | Path, *, drain_s: float, threads: int = 1
) -> Application:
    """Build the Serve application of one reranker, named `Reranker:<model>`.

    Args:
        spec: the model, with its replica and queue limits.
        source: the result of `prepare`, or a Hugging Face id in the cache of the replica's node.
        drain_s: seconds for running requests when a replica stops.
        threads: CPU threads of one operation.
    """
    from ray import serve  # noqa: PLC0415  Importing this module stays cheap.

    actor: dict[str, Any] = {"num_cpus": CPUS}
    if spec.device == "gpu":
        actor["num_gpus"] = 1
    if spec.accelerator_type:
        actor["accelerator_type"] = spec.accelerator_type
    deployment = serve.deployment(RerankerServer).options(
        name=spec.deployment_name,
        ray_actor_options=actor,
        **spec.scaling(drain_s=drain_s),
    )
    return deployment.bind(spec, source, threads)
