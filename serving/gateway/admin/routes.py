"""The routes of the admin API behind one guard, and its OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from serving.config import LimitSettings, ServerSettings
from serving.gateway.admin import audit, budgets, keys, privacy, tenants, usage, vector_stores
from serving.gateway.admin import limits as limits_of
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.openapi import ERRORS, document
from serving.gateway.idempotency import Idempotency

PREFIX = "/admin/v1"


def router(
    administration: Administration,
    idempotency: Idempotency,
    *,
    server: ServerSettings,
    limits: LimitSettings,
) -> APIRouter:
    """Build the routes of the admin API."""
    edge = AdminEdge(administration, idempotency, server=server, limits=limits)
    routes = APIRouter(
        prefix=PREFIX,
        route_class=AdminRoute,
        dependencies=[Depends(edge.admit)],
        responses=ERRORS,
        generate_unique_id_function=_operation,
    )
    for resource in (tenants, keys, limits_of, budgets, privacy):
        routes.include_router(resource.router(administration, edge))
    if administration.curator is not None:
        routes.include_router(vector_stores.router(administration.curator, edge))
    for report in (usage, audit):
        routes.include_router(report.router(administration))

    @cache
    def described() -> dict[str, Any]:
        return document(routes.routes)

    @routes.get("/openapi.json", summary="Describe this API", tags=["Description"])
    async def describe() -> dict[str, Any]:
        """Return the admin API as an OpenAPI 3.1 document."""
        return described()

    return routes


def _operation(route: APIRoute) -> str:
    return route.name
