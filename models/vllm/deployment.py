"""Engines on CPUs as Ray Serve deployments, made without importing vLLM.

Importing vLLM and `ray.serve.llm` takes ten seconds of CPU. An engine's replica has to do it; what
deploys the replica need not. Ray Serve LLM places engines on GPUs (`models.vllm.engine.build`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.catalog import ModelSpec
from models.importing import without_collection

if TYPE_CHECKING:
    from ray.serve import Application

HEALTH_CHECK_TIMEOUT_S = 10
"""For one health check of an engine. Ray Serve LLM's default."""


class EngineReplica:
    """Stands for a `VLLMEngine`, and is one in the process that runs it."""

    def __new__(cls) -> Any:
        """Import and make the engine. Serve then awaits its `__init__` with what was bound."""
        with without_collection():
            from models.vllm.engine import ConfiguredEngine  # noqa: PLC0415  Imports vLLM.

        return ConfiguredEngine.__new__(ConfiguredEngine)


def variables(spec: ModelSpec, environment: dict[str, str]) -> dict[str, str]:
    """Environment variables of an engine's processes."""
    if spec.device != "cpu":
        return dict(environment)
    return environment | {
        # Else the first request for logprobs compiles C++ for 15 s, in which no token comes out.
        "TORCHDYNAMO_DISABLE": "1",
        # Where vLLM is imported, Ray Serve has taken `sys.stdout` for a log that it writes late.
        "VLLM_LOGGING_STREAM": "ext://sys.__stdout__",
    }


def build(
    spec: ModelSpec, source: str | Path, *, environment: dict[str, str], drain_s: float
) -> Application:
    """The deployment `Engine:<model>` of one model on a CPU, as Ray Serve LLM would make it.

    Args:
        spec: The catalogue entry.
        source: The prepared directory, or a Hugging Face id.
        environment: Variables for the engine's processes.
        drain_s: For streams to end when a replica is stopped.
    """
    from ray import serve  # noqa: PLC0415  Importing this module stays cheap.

    deployment = serve.deployment(EngineReplica).options(
        name=spec.deployment_name, **_options(spec, environment, drain_s=drain_s)
    )
    return deployment.bind(spec, source, environment, drain_s)


def _options(spec: ModelSpec, environment: dict[str, str], *, drain_s: float) -> dict[str, Any]:
    import ray  # noqa: PLC0415

    inherited = ray.get_runtime_context().runtime_env
    own = {"env_vars": variables(spec, environment)}
    workers = spec.tensor_parallel_size * spec.pipeline_parallel_size
    return {
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "placement_group_bundles": _bundles(workers),
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"runtime_env": {**inherited, **own}},
        **spec.scaling(drain_s=drain_s),
    }


def _bundles(workers: int) -> list[dict[str, float]]:
    """One CPU for each worker, beside one for the replica itself."""
    first: dict[str, float] = {"CPU": 2, "GPU": 0}
    return [first, *[{"CPU": 1.0} for _ in range(workers - 1)]]
