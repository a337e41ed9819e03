"""`/health`, `/ready` and `/metrics`. None needs a key; none tells more than states and counts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from serving.domain.model_state import RETRIEVAL, Readiness
from serving.gateway.open_requests import OpenRequests
from serving.gateway.streaming import json_response
from serving.telemetry.meter import Meter


def router(readiness: Readiness, meter: Meter, requests: OpenRequests) -> APIRouter:
    """Routes over the readiness and the meter. While requests are refused it is not ready."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Response:
        """Say that the process runs. Needs no key."""
        return json_response({"status": "alive"})

    @routes.get("/ready")
    async def ready() -> Response:
        """Say whether every model can answer (200) or not (503), and why not. Needs no key."""
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
        """Return metrics in the format of Prometheus. Needs no key."""
        return Response(meter.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
