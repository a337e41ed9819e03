"""`/admin/v1/budgets`: what keys and tenants may spend, and have spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request

from serving.accounting.pricing import amount
from serving.admission.limits import WINDOWS, Limit, Subject, WithoutStore, budget_measure
from serving.domain.quota import Spent
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject, AdminPage, Deleted
from serving.gateway.admin.openapi import takes
from serving.gateway.admin.queries import AdminPageQuery
from serving.gateway.admin.subjects import by_subject, check_known, subject_of
from serving.gateway.admin.wire import BudgetKind, BudgetsChange
from serving.gateway.edge import principal
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable


class BudgetObject(AdminObject):
    """A budget, and how much of it is spent."""

    amount: str
    spent: str | None = Field(description="null right after a change while it cannot be told.")
    reserved: str | None = Field(description="By requests that run now; null as `spent` is.")
    without_store: WithoutStore
    updated_at: datetime | None

    @classmethod
    def of(cls, limit: Limit, spent: Spent | None) -> Self:
        """Show a budget."""
        return cls(
            amount=amount(limit.value),
            spent=spent and amount(spent.spent_nanos),
            reserved=spent and amount(spent.reserved_nanos),
            without_store=limit.without_store,
            updated_at=limit.updated_at,
        )


class BudgetsObject(AdminObject):
    """The budgets of a key or a tenant; null where there is none."""

    object: Literal["budgets"] = "budgets"
    id: str
    kind: BudgetKind
    subject: str
    currency: str
    day: BudgetObject | None = None
    month: BudgetObject | None = None
    total: BudgetObject | None = None

    @classmethod
    def of(
        cls,
        subject: Subject,
        budgets: Sequence[Limit],
        spent: Mapping[str, Spent],
        currency: str,
    ) -> Self:
        """The budgets of a subject, by window."""
        shown: dict[str, Any] = {
            limit.window: BudgetObject.of(limit, spent.get(limit.window))
            for limit in budgets
            if limit.window is not None
        }
        return cls.model_validate(
            shown
            | {"id": str(subject), "kind": subject.kind, "subject": subject.name}
            | {"currency": currency}
        )


class BudgetsPage(AdminPage[BudgetsObject]):
    """Budgets by kind and name of what they are on."""


def router(administration: Administration, edge: AdminEdge) -> APIRouter:
    """Routes over the budgets."""
    routes = APIRouter(prefix="/budgets", tags=["Budgets"], route_class=AdminRoute)
    limits = administration.limits

    async def budgets(subject: Subject | None = None) -> list[Limit]:
        return [limit for limit in await limits.list(subject) if limit.window is not None]

    async def shown(subject: Subject, found: Sequence[Limit]) -> BudgetsObject:
        windows = [limit.window for limit in found if limit.window is not None]
        spent = await administration.spending.spending(str(subject), windows)
        return BudgetsObject.of(subject, found, spent, administration.currency)

    @routes.get("", summary="List budgets")
    async def list_budgets(query: Annotated[AdminPageQuery, Query()]) -> BudgetsPage:
        """List all budgets, by kind and name of their subjects, with their spending."""
        found = by_subject(await budgets(), after=query.after, count=query.limit + 1)
        data = [await shown(*pair) for pair in found[: query.limit]]
        last_id = data[-1].id if data else None
        return BudgetsPage(data=data, has_more=len(found) > query.limit, last_id=last_id)

    @routes.get("/{kind}/{subject}", summary="Get budgets")
    async def get_budgets(kind: BudgetKind, subject: str) -> BudgetsObject:
        """Return the budgets of a key (by its id) or a tenant, with their spending."""
        named = subject_of(kind, subject)
        found = await budgets(named)
        if not found:
            await check_known(administration, named)
        return await shown(named, found)

    @routes.put("/{kind}/{subject}", summary="Set budgets", openapi_extra=takes(BudgetsChange))
    async def set_budgets(request: Request, kind: BudgetKind, subject: str) -> BudgetsObject:
        """Sets those budgets that are given, all or none; null takes one away.

        The key of RINGFENCE_API_KEY has the id `env`. It holds when this returns.
        """
        named = subject_of(kind, subject)
        bounds = (await edge.read(request, BudgetsChange)).bounds()
        await limits.change(named, bounds, actor=principal(request).key_id)
        found = await budgets(named)
        try:
            return await shown(named, found)
        except (DatabaseUnavailable, ValkeyUnavailable):  # The change is made all the same.
            return BudgetsObject.of(named, found, {}, administration.currency)

    @routes.delete("/{kind}/{subject}", summary="Remove budgets")
    async def remove_budgets(request: Request, kind: BudgetKind, subject: str) -> Deleted:
        """Takes all budgets of a key or a tenant away; not its limits."""
        named = subject_of(kind, subject)
        measures = [budget_measure(window) for window in WINDOWS]
        await limits.clear(named, measures, actor=principal(request).key_id)
        return Deleted(id=str(named), object="budgets.deleted")

    return routes
