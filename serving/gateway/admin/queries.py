"""Query parameters of the admin API. A misspelt parameter is an error."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from serving.accounting.usage import DIMENSIONS, Dimension
from serving.gateway.admin.wire import ModelName, Name

PAGE = 20
MAX_PAGE = 100


def _day(value: Any) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a day such as 2026-11-30") from None


def _dimensions(value: Any) -> Any:
    given = [value] if isinstance(value, str) else value  # FastAPI finds a list for a sequence.
    names = [name for text in given for name in text.split(",") if name]
    if not set(names) <= set(DIMENSIONS) or len(set(names)) < len(names):
        raise ValueError(f"must be some of {','.join(DIMENSIONS)}, none of them twice")
    return tuple(names)


Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Dimensions = Annotated[
    tuple[Dimension, ...],
    BeforeValidator(_dimensions),
    WithJsonSchema(
        {
            "type": "string",
            "description": f"Some of {','.join(DIMENSIONS)}, with commas; empty for one sum.",
        }
    ),
]


class AdminQuery(BaseModel):
    """Base of what may stand behind a path's question mark."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AdminPageQuery(AdminQuery):
    """A page of a list."""

    limit: int = Field(PAGE, ge=1, le=MAX_PAGE, description="How many at most.")
    after: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._/:-]{1,140}$", description="`last_id` of the page before."
    )


class KeysQuery(AdminPageQuery):
    """A page of the keys."""

    tenant: Name | None = Field(None, description="Only of this tenant.")


class AuditQuery(AdminQuery):
    """A page of the audit."""

    limit: int = Field(PAGE, ge=1, le=MAX_PAGE, description="How many at most.")
    before: int | None = Field(
        None, ge=1, le=2**63 - 1, description="`last_id` of the page before."
    )


class UsageQuery(AdminQuery):
    """The usage to report, and its grouping."""

    group_by: Dimensions = ("day",)
    since: Day | None = Field(None, description="The first day, in UTC.")
    until: Day | None = Field(None, description="The last day, in UTC.")
    tenant: Name | None = Field(None, description="Only of this tenant.")
    key: Name | None = Field(None, description="Only of the key of this id.")
    model: ModelName | None = Field(None, description="Only of this model.")
    format: Literal["json", "csv"] = "json"
