"""`/health`, `/ready` and `/metrics`. None needs a key; none tells more than states and counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from fastapi import APIRouter
from starlette.responses import Response

from serving.gateway.responses import json_response
from serving.telemetry.meter import Meter


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether a model can answer, and why not."""

    state: Literal["loading", "ready", "failed"]
    reason: str | None = None


class Readiness(Protocol):
    """Knows the state of every served model."""

    async def __call__(self) -> dict[str, ModelState]:
        """States by model id."""
        ...


def router(readiness: Readiness, meter: Meter) -> APIRouter:
    """Routes over the readiness and the meter."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Response:
        return json_response({"status": "alive"})

    @routes.get("/ready")
    async def ready() -> Response:
        states = await readiness()
        all_ready = all(state.state == "ready" for state in states.values())
        answer = {
            "status": "ready" if all_ready else "not ready",
            "models": {model: asdict(state) for model, state in states.items()},
        }
        return json_response(answer, status=200 if all_ready else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(meter.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
