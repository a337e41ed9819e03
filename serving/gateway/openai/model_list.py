"""`/v1/models`."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.catalog import ModelSpec
from serving.gateway.streaming import json_response
from serving.pipeline import Pipeline


def router(pipeline: Pipeline) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter(prefix="/v1")
    started = int(time.time())

    @routes.get("/models")
    async def list_models(request: Request) -> Response:
        """List the models that the key may use."""
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        data = [_card(spec, started) for spec in pipeline.models(principal)]
        return json_response({"object": "list", "data": data})

    @routes.get("/models/{model:path}")
    async def retrieve_model(request: Request, model: str) -> Response:
        """Describe one model."""
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        return json_response(_card(pipeline.model(principal, model), started))

    return routes


def _card(spec: ModelSpec, created: int) -> dict[str, Any]:
    card: dict[str, Any] = {
        "id": spec.id,
        "object": "model",
        "created": created,
        "owned_by": "ringfence",
        "task": spec.task,
        "max_model_len": spec.context_tokens,
    }
    if spec.simulated:
        card |= {"owned_by": "ringfence-simulated", "simulated": True}
    return card
