"""Common objects of the admin API's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
R = TypeVar("R")


class AdminObject(BaseModel):
    """Base of the answers."""

    model_config = ConfigDict(frozen=True)


class AdminPage(AdminObject, Generic[T]):
    """A part of a list, in order."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = Field(description="Whether something comes after `last_id`.")
    last_id: str | None = Field(description="Send it as `after` for what comes next.")

    @classmethod
    def of(
        cls, found: Sequence[R], limit: int, *, show: Callable[[R], T], id_of: Callable[[R], str]
    ) -> Self:
        """The page of at most `limit` from what was found; one more shows that there are more."""
        shown = found[:limit]
        last_id = id_of(shown[-1]) if shown else None
        return cls(data=list(map(show, shown)), has_more=len(found) > limit, last_id=last_id)


class Deleted(AdminObject):
    """Something is gone."""

    id: str
    object: str = Field(description="What it was, such as `tenant.deleted`.")
    deleted: Literal[True] = True


class ErrorBody(AdminObject):
    """An error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(AdminObject):
    """Every answer that is not one."""

    error: ErrorBody
