from __future__ import annotations

from pathlib import Path

from models.catalog import ModelSpec
from models.embedding.reranker_server import CPUS, build_reranker

SPEC = ModelSpec(id="org/cross", task="rerank", engine="sentence-transformers", source="org/cross")


def test_build_applies_the_catalogues_limits() -> None:
    spec = SPEC.model_copy(
        update={"replicas": 2, "max_ongoing_requests": 7, "max_queued_requests": 9}
    )
    deployment = build_reranker(spec, Path("/models/m"), drain_s=30)._bound_deployment
    assert deployment.name == "Reranker:org--cross"
    assert deployment.num_replicas == 2
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (7, 9)
    assert deployment.ray_actor_options == {"num_cpus": CPUS}
    assert deployment.init_args == (spec, Path("/models/m"), 1)


def test_build_for_a_gpu_reserves_it() -> None:
    spec = SPEC.model_copy(update={"device": "gpu", "accelerator_type": "L4"})
    deployment = build_reranker(spec, Path("/models/m"), drain_s=30)._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert deployment.ray_actor_options["accelerator_type"] == "L4"
