"""Messages about an application that does not start."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from serving.ray_cluster.cluster import failed_attempts, wait_for_controller, why_failed

ENGINE = """The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:ringfence:Engine:m.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Engine core initialization failed. See root cause above.

The above exception was the direct cause of the following exception:

  File "models/vllm/start.py", line 60, in explained_start
models.vllm.start.EngineStartFailed: The weights are damaged."""

EMBEDDER = """Traceback (most recent call last):
ValueError: first
RuntimeError: last"""


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (ENGINE, "m did not start: The weights are damaged."),
        (EMBEDDER, "m did not start: RuntimeError: last"),
        ("", "m did not start: no reason was given"),
    ],
    ids=["engine", "another", "nothing"],
)
def test_reason_of_a_deployment_is_one_line(message: str, told: str) -> None:
    failed = SimpleNamespace(status="DEPLOY_FAILED", message=message)
    fine = SimpleNamespace(status="HEALTHY", message="ValueError: old")
    application = SimpleNamespace(deployments={"m": failed, "n": fine})
    assert why_failed(application) == told


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        ("UPDATING", ENGINE, {"m did not start: The weights are damaged."}),
        ("UPDATING", "", set()),
        ("UPDATING", "Upscaling from 1 to 2 replicas.", set()),
        ("HEALTHY", ENGINE, set()),
    ],
)
def test_attempt_that_is_made_again_is_told(status: str, message: str, told: set[str]) -> None:
    deployment = SimpleNamespace(status=status, message=message)
    application = SimpleNamespace(deployments={"m": deployment})
    assert failed_attempts(application) == told


def test_controller_that_is_found_is_not_waited_for_any_longer() -> None:
    looks = iter([False, False, True])
    assert wait_for_controller(Future(), lambda: next(looks))


def test_controller_whose_start_fails_is_not_looked_for() -> None:
    started: Future[None] = Future()

    def never_found() -> bool:
        started.set_exception(TimeoutError())
        return False

    assert not wait_for_controller(started, never_found)


def test_controller_of_a_start_that_is_over_is_there() -> None:
    started: Future[None] = Future()
    started.set_result(None)
    assert wait_for_controller(started, lambda: False)
