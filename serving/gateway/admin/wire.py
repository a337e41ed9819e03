"""Bodies of the admin API. Types are strict; unlike elsewhere, an unknown field is an error.

A limit with a misspelt name would else be ignored.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from serving.access.keys import MAX_GRACE_S
from serving.access.names import MODEL, NAME
from serving.access.tenants import DEFAULT_WEIGHT, MAX_WEIGHT
from serving.admission.limits import (
    MAX_VALUE,
    NANOS,
    WINDOWS,
    LimitValue,
    Measure,
    WithoutStore,
    budget_measure,
    default_policy,
)
from serving.domain.errors import InvalidRequest
from serving.domain.principal import Role
from serving.domain.privacy_class import PrivacyClass
from serving.gateway.wire.conversation import Quick, Wire

BudgetKind = Literal["key", "tenant"]
Name = Annotated[str, StringConstraints(strict=True, pattern=f"^{NAME}$")]
ModelName = Annotated[str, StringConstraints(strict=True, pattern=f"^{MODEL}$")]
Weight = Annotated[
    float, Field(strict=True, gt=0, le=MAX_WEIGHT, description="Share under contention.")
]
WITHOUT_STORE = "What happens to requests while Valkey cannot count them."
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_VALUE)]

_AMOUNT = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")
_MAX_AMOUNT = Decimal(MAX_VALUE) / NANOS
_EXACT_BELOW = 10**6  # With 9 decimals that is 15 digits, which a double keeps (IEEE 754).


def _nanos(value: Any) -> int:
    """An amount in billionths, from a string or a JSON number. Never rounds."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be an amount, as a number or a string")  # noqa: TRY004  For pydantic.
    text = value if isinstance(value, str) else format(Decimal(str(value)), "f").removesuffix(".0")
    if not _AMOUNT.fullmatch(text) or Decimal(text) > _MAX_AMOUNT:
        raise ValueError(f"must be an amount of 0 to {_MAX_AMOUNT} with at most 9 decimals")
    if isinstance(value, float) and value >= _EXACT_BELOW and not value.is_integer():
        raise ValueError("must be written as a string, so that it stays exact")
    return int(Decimal(text) * NANOS)


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if moment.tzinfo is not None:
                return moment
    raise ValueError("must be a time with its zone, such as 2027-01-31T00:00:00Z")


Amount = Annotated[
    int,
    BeforeValidator(_nanos),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": float(_MAX_AMOUNT)},
                {"type": "string", "pattern": f"^{_AMOUNT.pattern}$"},
            ],
            "description": "In the currency, with at most 9 decimals; as a string always exact.",
        }
    ),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "With its zone."}),
]


class AdminBody(Wire):
    """Base of the bodies."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TenantCreation(AdminBody):
    """A new tenant."""

    name: Name
    weight: Weight = DEFAULT_WEIGHT


class TenantChange(AdminBody):
    """A change of a tenant."""

    weight: Weight


class KeyCreation(AdminBody):
    """A new key."""

    tenant: Name = Field(description="Must exist; `default` is added when it is missing.")
    name: Name = Field(description="Unique among the tenant's keys that are not revoked.")
    role: Role = "inference"
    expires_at: Moment | None = None
    allowed_models: Annotated[list[ModelName], Quick] | None = Field(
        None, description="null for every model; an empty list for none."
    )
    privacy: PrivacyClass = Field(
        "local_only", description="The loosest class that its requests may have."
    )
    groups: Annotated[list[Name], Quick] = Field(
        [], description="Whose files it may read, beside those that its whole tenant may."
    )
    user: Name | None = Field(None, description="Whose files it may read, and who owns its own.")


class KeyRotation(AdminBody):
    """The rotation of a key."""

    grace_s: Annotated[float, Field(strict=True, ge=0, le=MAX_GRACE_S)] = Field(
        0.0, description="Seconds for which the old key works on."
    )


class PrivacyPreview(AdminBody):
    """A request whose scrubbed form is to be seen."""

    tenant: Name = Field(description="Whose policy applies.")
    body: dict[str, Any] = Field(description="As it would be sent to `/v1/chat/completions`.")


class CountBound(AdminBody):
    """A limit, and what it does while nothing can be counted."""

    value: Count = Field(description="The limit.")
    without_store: WithoutStore = Field("allow", description=WITHOUT_STORE)


class AmountBound(AdminBody):
    """A budget, and what it does while nothing can be counted."""

    amount: Amount = Field(description="The budget.")
    without_store: WithoutStore = Field("refuse", description=WITHOUT_STORE)


class LimitsChange(AdminBody):
    """Limits to set, each a number or an object. Null removes a limit; omitted ones stay."""

    requests_per_minute: Count | CountBound | None = Field(
        None, description="Requests in any minute."
    )
    tokens_per_minute: Count | CountBound | None = Field(
        None, description="Tokens of prompts and answers in any minute."
    )
    concurrent_requests: Count | CountBound | None = Field(
        None, description="Requests that run at once."
    )
    tokens_per_request: Count | CountBound | None = Field(
        None, description="Tokens of one request's prompt and answers."
    )

    def bounds(self) -> dict[Measure, LimitValue | None]:
        """The limits by measure, without omitted ones.

        Raises:
            InvalidRequest: all were.
        """
        given: set[Any] = self.model_fields_set
        return _some({name: _bound(name, getattr(self, name)) for name in given}, self)


class BudgetsChange(AdminBody):
    """Budgets to set, each an amount or an object. Null removes a budget; omitted ones stay."""

    day: Amount | AmountBound | None = Field(None, description="Amount for a day, in UTC.")
    month: Amount | AmountBound | None = Field(None, description="Amount for a month, in UTC.")
    total: Amount | AmountBound | None = Field(None, description="Amount for good.")

    def bounds(self) -> dict[Measure, LimitValue | None]:
        """The limits by measure, without omitted ones.

        Raises:
            InvalidRequest: all were.
        """
        given = {w: budget_measure(w) for w in WINDOWS if w in self.model_fields_set}
        return _some({m: _bound(m, getattr(self, w)) for w, m in given.items()}, self)


BODIES: tuple[type[AdminBody], ...] = (
    TenantCreation,
    TenantChange,
    KeyCreation,
    KeyRotation,
    LimitsChange,
    BudgetsChange,
    PrivacyPreview,
)


def _some(
    bounds: dict[Measure, LimitValue | None], body: AdminBody
) -> dict[Measure, LimitValue | None]:
    if not bounds:
        raise InvalidRequest(
            f"Nothing to change: give one of {', '.join(type(body).model_fields)}."
        )
    return bounds


def _bound(measure: Measure, value: int | CountBound | AmountBound | None) -> LimitValue | None:
    if value is None:
        return None
    if isinstance(value, CountBound):
        return LimitValue(value.value, value.without_store)
    if isinstance(value, AmountBound):
        return LimitValue(value.amount, value.without_store)
    return LimitValue(value, default_policy(measure))
