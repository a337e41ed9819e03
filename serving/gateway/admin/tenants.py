"""`/admin/v1/tenants`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from serving.access.tenants import Tenant
from serving.domain.errors import Conflict
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject, AdminPage, Deleted
from serving.gateway.admin.openapi import takes, takes_once
from serving.gateway.admin.queries import AdminPageQuery
from serving.gateway.admin.wire import TenantChange, TenantCreation
from serving.gateway.edge import principal


class TenantObject(AdminObject):
    """A tenant."""

    object: Literal["tenant"] = "tenant"
    name: str
    weight: float
    created_at: datetime

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """Show a tenant."""
        return cls(name=tenant.name, weight=tenant.weight, created_at=tenant.created_at)


class TenantPage(AdminPage[TenantObject]):
    """Tenants by name."""


def router(administration: Administration, edge: AdminEdge) -> APIRouter:
    """Routes over the tenants."""
    routes = APIRouter(prefix="/tenants", tags=["Tenants"], route_class=AdminRoute)
    tenants = administration.tenants

    @routes.get("", summary="List tenants")
    async def list_tenants(query: Annotated[AdminPageQuery, Query()]) -> TenantPage:
        """Tenants by name."""
        found = await tenants.list(limit=query.limit + 1, after=query.after or "")
        return TenantPage.of(found, query.limit, show=TenantObject.of, id_of=lambda one: one.name)

    @routes.post(
        "",
        summary="Create a tenant",
        response_model=TenantObject,
        openapi_extra=takes_once(TenantCreation),
    )
    async def create_tenant(request: Request) -> Response:
        """Adds a tenant. Its name cannot be changed later."""

        async def create(wire: TenantCreation) -> TenantObject:
            actor = principal(request).key_id
            return TenantObject.of(await tenants.create(wire.name, weight=wire.weight, actor=actor))

        return await edge.answer(request, TenantCreation, create)

    @routes.get("/{name}", summary="Get a tenant")
    async def get_tenant(name: str) -> TenantObject:
        """Return one tenant."""
        return TenantObject.of(await tenants.get(name))

    @routes.patch("/{name}", summary="Change a tenant", openapi_extra=takes(TenantChange))
    async def change_tenant(request: Request, name: str) -> TenantObject:
        """Sets the tenant's weight: its share of an engine that several tenants want at once."""
        wire = await edge.read(request, TenantChange)
        actor = principal(request).key_id
        return TenantObject.of(await tenants.set_weight(name, wire.weight, actor=actor))

    @routes.delete("/{name}", summary="Delete a tenant")
    async def delete_tenant(request: Request, name: str) -> Deleted:
        """Deletes a tenant with its keys and the limits of both. Usage and audit stay."""
        caller = principal(request)
        if caller.tenant == name:
            raise Conflict("The key sent belongs to this tenant, so it would end with it.")
        await tenants.delete(name, actor=caller.key_id)
        return Deleted(id=name, object="tenant.deleted")

    return routes
