from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from models.catalog import builtin
from models.embedding.embedder import Embeddings
from models.embedding.embedder_server import EmbedderOptions, build_embedder
from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
)
from models.remote.embedder import RemoteEmbedder
from tests.models.embedding.embedder_scenario import WAIT_S

ROOT = Path(__file__).parents[3]
SPEC = builtin()["all-minilm-l6-v2"]
ANSWER = Embeddings(np.ones((1, 1), np.float32), [1])


class FakeHandle:
    """A handle with one delayed answer; it is also its own method and response."""

    def __init__(self, answer: Embeddings | Failure | Exception, *, after_s: float = 0) -> None:
        self.embed = self
        self.asked: list[Any] = []
        self.cancelled = False
        self._answer = answer
        self._after_s = after_s

    def remote(self, inputs: Any) -> Self:
        self.asked.append(inputs)
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Embeddings | Failure]:
        yield from asyncio.sleep(self._after_s).__await__()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def test_answer_of_the_deployment_is_returned() -> None:
    handle = FakeHandle(ANSWER)
    assert await RemoteEmbedder(handle, timeout_s=1).embed(["text"]) is ANSWER
    assert handle.asked == [["text"]]
    assert not handle.cancelled


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Failure(ContextLengthExceeded, "too long", "input"), ContextLengthExceeded),
        (BackPressureError(3, 2), EngineOverloaded),
        (ActorDiedError(), EngineUnavailable),
        (DeploymentUnavailableError("gone"), EngineUnavailable),  # type: ignore[arg-type, unused-ignore]
    ],
)
async def test_failure_becomes_our_error(
    answer: Failure | Exception, error: type[EngineError]
) -> None:
    with pytest.raises(EngineError) as caught:
        await RemoteEmbedder(FakeHandle(answer), timeout_s=1).embed(["text"])
    assert type(caught.value) is error


async def test_answer_that_does_not_come_is_cancelled_at_the_deadline() -> None:
    handle = FakeHandle(ANSWER, after_s=5)
    with pytest.raises(EngineTimeout, match=r"within 0\.01 s"):
        await RemoteEmbedder(handle, timeout_s=0.01).embed(["text"])
    assert handle.cancelled


async def test_caller_that_goes_away_cancels_the_request() -> None:
    handle = FakeHandle(ANSWER, after_s=5)
    call = asyncio.create_task(RemoteEmbedder(handle, timeout_s=9).embed(["text"]))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert handle.cancelled


def test_build_applies_the_catalogues_limits() -> None:
    spec = SPEC.model_copy(
        update={"id": "org/name", "max_ongoing_requests": 7, "max_queued_requests": 9}
        | {"replicas": 2}
    )
    deployment = build_embedder(spec, Path("/models/m"), drain_s=30)._bound_deployment
    assert deployment.name == "Embedder:org--name"
    assert deployment.num_replicas == 2
    assert (deployment.max_ongoing_requests, deployment.max_queued_requests) == (7, 9)
    assert deployment.ray_actor_options["num_cpus"] == EmbedderOptions().cpus
    assert deployment.init_args == (spec, Path("/models/m"), EmbedderOptions())


def test_build_for_gpus_that_scale() -> None:
    spec = SPEC.model_copy(
        update={"device": "gpu", "accelerator_type": "L4", "replicas": 1, "max_replicas": 4}
    )
    deployment = build_embedder(spec, Path("/models/m"), drain_s=30)._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert deployment.ray_actor_options["accelerator_type"] == "L4"
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = tmp_path_factory.mktemp("scenario") / "result.json"
    script = Path(__file__).with_name("embedder_scenario.py")
    run = subprocess.run(
        [sys.executable, str(script), str(result)],
        env={"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answers: dict[str, Any] = json.loads(result.read_bytes())
    return answers


@pytest.mark.full
@pytest.mark.stack
def test_requests_that_arrive_together_run_together(scenario: dict[str, Any]) -> None:
    assert scenario["single_s"] >= WAIT_S  # Alone it waits for company.
    assert scenario["full_s"] < scenario["single_s"] / 2  # Eight fill the batch: nobody waits.


@pytest.mark.full
@pytest.mark.stack
def test_merged_requests_get_their_own_vectors(scenario: dict[str, Any]) -> None:
    assert scenario["full_counts"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert scenario["full_equals_single"]


@pytest.mark.full
@pytest.mark.stack
def test_bad_request_does_not_fail_its_neighbours(scenario: dict[str, Any]) -> None:
    first, bad, third = scenario["mixed"]
    assert (first, third) == ([1, 384], [2, 384])
    assert bad.startswith("ContextLengthExceeded: This model's maximum context length is 256")


@pytest.mark.full
@pytest.mark.stack
def test_request_that_fills_a_batch_alone_does_not_wait(scenario: dict[str, Any]) -> None:
    assert scenario["large_shape"] == [6, 384]
    assert scenario["large_s"] < scenario["single_s"] / 2


@pytest.mark.full
@pytest.mark.stack
def test_deadline_holds_over_a_real_handle(scenario: dict[str, Any]) -> None:
    assert scenario["hurried"].startswith("EngineTimeout: ")


@pytest.mark.full
@pytest.mark.stack
def test_full_queue_is_overload(scenario: dict[str, Any]) -> None:
    answered = scenario["overload"].count("answered")
    refused = [answer for answer in scenario["overload"] if answer.startswith("EngineOverloaded")]
    assert answered + len(refused) == 6
    assert answered > 0
    assert refused


@pytest.mark.full
@pytest.mark.stack
def test_replica_that_dies_is_unavailable(scenario: dict[str, Any]) -> None:
    assert scenario["death"].startswith("EngineUnavailable: ")
