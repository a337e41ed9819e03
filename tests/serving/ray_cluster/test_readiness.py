"""States of models as the controller reports them, or fails to."""

from __future__ import annotations

import asyncio
import threading

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ServeStatus,
)

from serving.domain.model_state import ModelState
from serving.ray_cluster.readiness import ServeReadiness

NAMES = {"m": "Engine:m"}


def status(state: DeploymentStatus, *, running: int = 0, name: str = "Engine:m") -> ServeStatus:
    deployment = DeploymentStatusOverview(
        status=state,
        status_trigger=DeploymentStatusTrigger.UNSPECIFIED,
        replica_states={"RUNNING": running},
        message="Traceback: /secret/path canary",
    )
    application = ApplicationStatusOverview(
        status=ApplicationStatus.DEPLOYING,
        message="canary",
        last_deployed_time_s=0,
        deployments={name: deployment},
    )
    return ServeStatus(applications={"ringfence": application})


class Controller:
    """Returns given states, and counts calls."""

    def __init__(self, *answers: ServeStatus | Exception) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self) -> ServeStatus:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (status(DeploymentStatus.HEALTHY, running=1), "ready"),
        (status(DeploymentStatus.UPDATING, running=1), "ready"),
        (status(DeploymentStatus.UNHEALTHY, running=1), "ready"),
        (status(DeploymentStatus.UPDATING), "loading"),
        (status(DeploymentStatus.DEPLOY_FAILED), "failed"),
        (status(DeploymentStatus.UNHEALTHY), "failed"),
        (status(DeploymentStatus.HEALTHY, running=1, name="Engine:n"), "loading"),
        (ServeStatus(proxies={}, applications={}), "loading"),
    ],
)
async def test_state_follows_the_deployment(answer: ServeStatus, state: str) -> None:
    states = await ServeReadiness("ringfence", NAMES, status=Controller(answer))()
    assert states["m"].state == state
    assert (states["m"].reason is None) == (state == "ready")


async def test_reason_is_our_own_and_holds_no_text_of_ray() -> None:
    answer = status(DeploymentStatus.DEPLOY_FAILED)
    states = await ServeReadiness("ringfence", NAMES, status=Controller(answer))()
    assert states["m"] == ModelState(
        "failed", "the model did not start; the reason is in the server's log"
    )


@pytest.mark.parametrize("error", [RayActorError(), RayServeException("gone")])
async def test_controller_that_is_away_leaves_models_loading(error: Exception) -> None:
    states = await ServeReadiness("ringfence", NAMES, status=Controller(error))()
    assert states == {"m": ModelState("loading", "the controller does not answer", known=False)}


async def test_controller_that_hangs_is_waited_for_no_longer_than_the_limit() -> None:
    release = threading.Event()

    def hang() -> ServeStatus:
        release.wait(60)
        return ServeStatus(applications={})

    readiness = ServeReadiness("ringfence", NAMES, status=hang, timeout_s=0.05)
    async with asyncio.timeout(30):
        states = await readiness()
    release.set()
    assert states == {"m": ModelState("loading", "the controller does not answer", known=False)}


async def test_controller_is_asked_at_most_once_a_second_by_all_together() -> None:
    controller, clock = Controller(status(DeploymentStatus.HEALTHY, running=1)), Clock()
    readiness = ServeReadiness("ringfence", NAMES, status=controller, clock=clock)
    await asyncio.gather(*(readiness() for _ in range(5)))
    clock.seconds = 0.9
    await readiness()
    assert controller.asked == 1
    clock.seconds = 1.0
    await readiness()
    assert controller.asked == 2


async def test_state_changes_when_the_controller_says_so() -> None:
    controller = Controller(
        status(DeploymentStatus.UPDATING), status(DeploymentStatus.HEALTHY, running=1)
    )
    clock = Clock()
    readiness = ServeReadiness("ringfence", NAMES, status=controller, clock=clock)
    assert (await readiness())["m"].state == "loading"
    clock.seconds = 2
    assert (await readiness())["m"].state == "ready"
