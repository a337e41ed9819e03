"""`/admin/v1/audit`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from pydantic import Field

from serving.access import audit
from serving.access.audit import AuditEvent
from serving.gateway.admin.administration import Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject
from serving.gateway.admin.queries import AuditQuery


class AuditObject(AdminObject):
    """A change that somebody made."""

    object: Literal["audit_event"] = "audit_event"
    id: int
    at: datetime
    actor: str = Field(description="The id of an admin key, or `command`.")
    action: str
    subject_kind: str
    subject: str
    change: dict[str, Any]

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        """Show a change."""
        return cls(
            id=event.id,
            at=event.at,
            actor=event.actor,
            action=event.action,
            subject_kind=event.subject_kind,
            subject=event.subject,
            change=event.change,
        )


class AuditPage(AdminObject):
    """A part of the audit, the newest change first."""

    object: Literal["list"] = "list"
    data: list[AuditObject]
    has_more: bool = Field(description="Whether there are older changes.")
    last_id: int | None = Field(description="Send it as `before` for older changes.")


def router(administration: Administration) -> APIRouter:
    """The route over the audit."""
    routes = APIRouter(prefix="/audit", tags=["Audit"], route_class=AdminRoute)

    @routes.get("", summary="List changes")
    async def list_changes(query: Annotated[AuditQuery, Query()]) -> AuditPage:
        """Changes of tenants, keys, limits and budgets, the newest first."""
        found = await audit.events(
            administration.database, limit=query.limit + 1, before=query.before
        )
        shown = [AuditObject.of(event) for event in found[: query.limit]]
        last_id = shown[-1].id if shown else None
        return AuditPage(data=shown, has_more=len(found) > query.limit, last_id=last_id)

    return routes
