"""The state of each served model, as Ray Serve's controller sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatusOverview, ServeStatus

from models.threads import Threads
from serving.domain.model_state import ModelState

_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}
_LOG_HINT = "the model did not start; the reason is in the server's log"


class ServeReadiness:
    """States by model, asked from the controller at most once a second, off the event loop.

    Args:
        application: name of the Serve application.
        deployments: deployment name by model id.
        status: asks the controller; blocks.
        clock: seconds that never go back.
        timeout_s: for the controller's answer.
    """

    def __init__(
        self,
        application: str,
        deployments: Mapping[str, str],
        *,
        status: Callable[[], ServeStatus] = serve.status,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = 5.0,
    ) -> None:
        self._status = status
        self._clock = clock
        self._timeout_s = timeout_s
        self._application = application
        self._deployments = deployments
        self._states: dict[str, ModelState] = {}
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._threads = Threads("ray-status", 1)

    async def __call__(self) -> dict[str, ModelState]:
        """States by model id; all `loading` when the controller does not answer in time."""
        async with self._lock:
            if self._clock() - self._asked_at >= 1:
                self._states = await self._ask()
                self._asked_at = self._clock()
        return self._states

    async def _ask(self) -> dict[str, ModelState]:
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._threads.run(self._status)
        except (TimeoutError, RayError, RayServeException):
            unknown = ModelState("loading", "the controller does not answer", known=False)
            return dict.fromkeys(self._deployments, unknown)
        running = status.applications.get(self._application)
        found = running.deployments if running else {}
        return {model: _state(found.get(name)) for model, name in self._deployments.items()}


def _state(deployment: DeploymentStatusOverview | None) -> ModelState:
    if deployment is None:
        return ModelState("loading", "not deployed yet")
    if deployment.replica_states.get("RUNNING", 0) > 0:
        return ModelState("ready")
    if str(deployment.status.value) in _FAILED:
        return ModelState("failed", _LOG_HINT)
    return ModelState("loading", "the model is being loaded")
