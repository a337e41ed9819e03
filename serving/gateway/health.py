"""`/health`, `/ready` and `/metrics`. None needs a key; none tells more than states and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fastapi import APIRouter
from starlette.responses import Response

from serving.gateway.open_requests import OpenRequests
from serving.gateway.responses import json_response
from serving.telemetry.meter import Meter


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether a model can answer, and why not. One that is not `known` is a guess."""

    state: Literal["loading", "ready", "failed"]
    reason: str | None = None
    known: bool = True


class Readiness(Protocol):
    """Knows the state of every served model."""

    async def __call__(self) -> dict[str, ModelState]:
        """States by model id."""
        ...


RETRIEVAL = "(retrieval)"
"""The state of what searches vector stores, among those of models. No model is called that."""


def router(readiness: Readiness, meter: Meter, requests: OpenRequests) -> APIRouter:
    """Routes over the readiness and the meter. While requests are refused it is not ready."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Response:
        return json_response({"status": "alive"})

    @routes.get("/ready")
    async def ready() -> Response:
        states = await readiness()
        all_ready = all(state.state == "ready" for state in states.values())
        status = "ready" if all_ready else "not ready"
        if requests.refusing:
            status = "stopping"
        told = {
            name: {"state": state.state, "reason": state.reason} for name, state in states.items()
        }
        answer: dict[str, Any] = {"status": status}
        if RETRIEVAL in told:
            answer["retrieval"] = told.pop(RETRIEVAL)
        answer["models"] = told
        return json_response(answer, status=200 if status == "ready" else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(meter.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
