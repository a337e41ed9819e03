"""`/admin/v1/usage`: what was used, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from starlette.responses import Response

from serving.accounting.pricing import amount
from serving.accounting.usage import Dimension, UsageRow
from serving.domain.errors import InvalidRequest
from serving.gateway.admin.administration import Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject
from serving.gateway.admin.queries import UsageQuery

_SUMS = (
    *("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("cost", "duration_ms"),
)


class UsageObject(AdminObject):
    """The usage of one group of requests."""

    object: Literal["usage"] = "usage"
    day: str | None = None
    key: str | None = None
    tenant: str | None = None
    model: str | None = None
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: str
    duration_ms: float

    @classmethod
    def of(cls, row: UsageRow) -> Self:
        """A row of the report."""
        return cls(**_cells(row))


class UsageList(AdminObject):
    """Usage by group."""

    object: Literal["list"] = "list"
    currency: str
    data: list[UsageObject]


def router(administration: Administration) -> APIRouter:
    """The route over the report of usage."""
    routes = APIRouter(prefix="/usage", tags=["Usage"], route_class=AdminRoute)

    @routes.get(
        "",
        summary="Report usage",
        response_model=UsageList,
        response_model_exclude_none=True,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def report_usage(query: Annotated[UsageQuery, Query()]) -> UsageList | Response:
        """Sums of requests, tokens and costs, for each group that `group_by` makes."""
        if query.since is not None and query.until is not None and query.since > query.until:
            raise InvalidRequest("until: must not lie before since", param="until")
        rows = await administration.usage.report(
            group_by=query.group_by,
            since=query.since,
            until=query.until,
            tenant=query.tenant,
            key_id=query.key,
            model=query.model,
        )
        currency = administration.currency
        if query.format == "csv":
            text = usage_csv(rows, query.group_by, currency)
            return Response(text, media_type="text/csv; charset=utf-8")
        return UsageList(currency=currency, data=[UsageObject.of(row) for row in rows])

    return routes


def usage_csv(rows: Sequence[UsageRow], group_by: Sequence[Dimension], currency: str) -> str:
    """Usage as CSV (RFC 4180) with a header. Names have no character that a spreadsheet runs."""
    columns = [*group_by, *_SUMS, "currency"]
    text = io.StringIO()
    lines = csv.DictWriter(text, columns)
    lines.writeheader()
    lines.writerows(_cells(row) | {"currency": currency} for row in rows)
    return text.getvalue()


def _cells(row: UsageRow) -> dict[str, Any]:
    return dict(row.group) | {
        "requests": row.requests,
        "failed": row.failed,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "cost": amount(row.cost_nanos),
        "duration_ms": row.duration_ms,
    }
