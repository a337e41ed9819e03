"""`/v1/requests/{id}`: how a request was answered, and the receipt of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.accounting.pricing import amount
from serving.accounting.usage import AttemptRecord
from serving.answering.explanations import Explanation, Explanations
from serving.domain.errors import NotFound, StateUnavailable
from serving.domain.principal import Principal
from serving.gateway.streaming import json_response
from serving.pipeline import Pipeline
from serving.storage.errors import DatabaseUnavailable


def router(pipeline: Pipeline, explanations: Explanations, *, currency: str) -> APIRouter:
    """Build the routes over explanations of requests. A key sees those of its tenant."""
    routes = APIRouter(prefix="/v1/requests")

    async def known(principal: Principal, request_id: str) -> Explanation:
        try:
            found = await explanations.of(principal.tenant, request_id)
        except DatabaseUnavailable:
            raise StateUnavailable("The database does not answer now. Try again soon.") from None
        if found is None:
            raise NotFound("No such request, or it has not ended yet.")
        return found

    @routes.get("/{request_id}")
    async def explain(request: Request, request_id: str) -> Response:
        """Say how a request was answered.

        Names the providers that were considered, each try, and its cost.
        """
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        found = await known(principal, request_id)
        return json_response(_told(request_id, found, currency))

    @routes.get("/{request_id}/receipt")
    async def receipt(request: Request, request_id: str) -> Response:
        """Return the signed receipt of an answer, as `ringfence receipt verify` takes it."""
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        found = await known(principal, request_id)
        token = next((one.receipt for one in found.attempts if one.receipt), None)
        if token is None:
            raise NotFound("No model's answer with a receipt was given to this request.")
        return json_response({"object": "request.receipt", "id": request_id, "receipt": token})

    return routes


def _told(request_id: str, found: Explanation, currency: str) -> dict[str, Any]:
    decision = found.decision
    return {
        "id": request_id,
        "object": "request",
        "privacy": None if decision is None else decision.privacy,
        "trigger": None if decision is None else decision.trigger,
        "candidates": [] if decision is None else [asdict(one) for one in decision.considered],
        "attempts": [_attempt(one, currency) for one in found.attempts],
    }


def _attempt(attempt: AttemptRecord, currency: str) -> dict[str, Any]:
    told = asdict(attempt)
    nanos, _ = told.pop("cost_nanos"), told.pop("receipt")
    return told | {"cost": amount(nanos), "currency": currency}
