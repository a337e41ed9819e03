"""`/admin/v1/limits`: rates of keys, tenants and models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from starlette.requests import Request

from serving.admission.limits import RATES, Limit, Subject, SubjectKind, WithoutStore
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject, AdminPage, Deleted
from serving.gateway.admin.openapi import takes
from serving.gateway.admin.queries import AdminPageQuery
from serving.gateway.admin.subjects import by_subject, check_known, subject_of
from serving.gateway.admin.wire import LimitsChange
from serving.gateway.edge import principal


class LimitObject(AdminObject):
    """A limit."""

    value: int
    without_store: WithoutStore
    updated_at: datetime | None

    @classmethod
    def of(cls, limit: Limit) -> Self:
        """Show a limit."""
        return cls(
            value=limit.value, without_store=limit.without_store, updated_at=limit.updated_at
        )


class LimitsObject(AdminObject):
    """The limits of a key, a tenant or a model; null where there is none."""

    object: Literal["limits"] = "limits"
    id: str
    kind: SubjectKind
    subject: str
    requests_per_minute: LimitObject | None = None
    tokens_per_minute: LimitObject | None = None
    concurrent_requests: LimitObject | None = None
    tokens_per_request: LimitObject | None = None

    @classmethod
    def of(cls, subject: Subject, limits: Sequence[Limit]) -> Self:
        """The limits of a subject."""
        shown: dict[str, Any] = {limit.measure: LimitObject.of(limit) for limit in limits}
        return cls(id=str(subject), kind=subject.kind, subject=subject.name, **shown)


class LimitsPage(AdminPage[LimitsObject]):
    """Limits by kind and name of what they are on."""


def router(administration: Administration, edge: AdminEdge) -> APIRouter:
    """Routes over the limits."""
    routes = APIRouter(prefix="/limits", tags=["Limits"], route_class=AdminRoute)
    limits = administration.limits

    async def rates(subject: Subject | None = None) -> list[Limit]:
        return [limit for limit in await limits.list(subject) if limit.window is None]

    @routes.get("", summary="List limits")
    async def list_limits(query: Annotated[AdminPageQuery, Query()]) -> LimitsPage:
        """List all limits, by kind and name of their subjects."""
        found = by_subject(await rates(), after=query.after, count=query.limit + 1)
        return LimitsPage.of(
            found,
            query.limit,
            show=lambda pair: LimitsObject.of(*pair),
            id_of=lambda pair: str(pair[0]),
        )

    @routes.get("/{kind}/{subject:path}", summary="Get limits")
    async def get_limits(kind: SubjectKind, subject: str) -> LimitsObject:
        """The limits of a key (by its id), a tenant or a model."""
        named = subject_of(kind, subject)
        found = await rates(named)
        if not found:
            await check_known(administration, named)
        return LimitsObject.of(named, found)

    @routes.put("/{kind}/{subject:path}", summary="Set limits", openapi_extra=takes(LimitsChange))
    async def set_limits(request: Request, kind: SubjectKind, subject: str) -> LimitsObject:
        """Sets those limits that are given, all or none; null takes one away.

        The key of RINGFENCE_API_KEY has the id `env`. It holds when this returns.
        """
        named = subject_of(kind, subject)
        bounds = (await edge.read(request, LimitsChange)).bounds()
        await check_known(administration, named)
        await limits.change(named, bounds, actor=principal(request).key_id)
        return LimitsObject.of(named, await rates(named))

    @routes.delete("/{kind}/{subject:path}", summary="Remove limits")
    async def remove_limits(request: Request, kind: SubjectKind, subject: str) -> Deleted:
        """Takes all limits of a key, a tenant or a model away; not its budgets."""
        named = subject_of(kind, subject)
        await limits.clear(named, RATES, actor=principal(request).key_id)
        return Deleted(id=str(named), object="limits.deleted")

    return routes
