"""Engines on CPUs are deployed as Ray Serve LLM would, without its imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.serve import Application

from models.catalog import ModelSpec, builtin
from models.vllm import deployment

ROOT = Path(__file__).parents[3]
SOURCE = Path("/models/m")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
SMOLLM2 = builtin()["smollm2-135m-instruct"]

IMPORTED = """
import sys
from pathlib import Path
from models.catalog import builtin
from models.vllm.deployment import build
build(builtin()["smollm2-135m-instruct"], Path("/models/m"), environment={}, drain_s=30)
print({"vllm", "torch", "transformers", "ray.serve.llm"} & set(sys.modules))
"""


def deployed(application: Application) -> tuple[Any, ...]:
    """Everything that Ray Serve is told of a deployment, but for its class and arguments."""
    made = application._bound_deployment
    replica = made._replica_config
    return (
        made.name,
        made._deployment_config.model_dump(),
        replica.ray_actor_options,
        replica.placement_group_bundles,
        replica.placement_group_strategy,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tensor_parallel_size": 2},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        {"replicas": 2},
        {"max_replicas": 3},
        {"id": "org/model-1.5"},
    ],
    ids=str,
)
def test_engine_is_deployed_as_ray_serve_llm_would(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.llm._internal.serve.core.server import llm_server

    from models.vllm import engine

    # As `serving.ray_cluster.cluster` sets it for every process, by Ray's variable.
    monkeypatch.setattr(llm_server, "ENABLE_WORKER_PROCESS_SETUP_HOOK", False)
    spec = ModelSpec.model_validate(SMOLLM2.model_dump() | fields)
    ours = deployment.build(spec, SOURCE, environment=ENVIRONMENT, drain_s=30)
    theirs = engine.build(spec, SOURCE, environment=ENVIRONMENT, drain_s=30)
    assert deployed(ours) == deployed(theirs)


def test_deploying_imports_no_model_library() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    assert ended.stdout.strip() == "set()"
