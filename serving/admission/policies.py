"""Policies of requests: limits and budgets of key, tenant and model, or else the defaults.

Kept until one is changed, as keys are. Knows nothing of what was used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Self

from sqlalchemy import select

from serving.access.fresh_cache import Changes, FreshCache, Unannounced
from serving.admission.demand import RateLimits
from serving.admission.limits import (
    NANOS,
    RATES,
    WINDOWS,
    Limit,
    Subject,
    Window,
    budget_measure,
    limits_of,
)
from serving.config import AdmissionSettings, RateDefaults
from serving.domain.principal import Principal
from serving.storage.database import Database
from serving.storage.schema import TenantRow

NO_MODEL = ""
"""In place of a model's name while a request is not read yet."""


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """The amount that a subject may spend in each window of a kind."""

    subject: Subject
    window: Window
    limit_nanos: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that limits one kind of request: of one key, of its tenant, to one model."""

    rates: Sequence[RateLimits]
    budgets: Sequence[BudgetLimit]
    tokens_per_request: int | None
    refuses_without_store: bool
    weight: float

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit is on what a request will use, and not only on how many there are."""
        return (
            bool(self.budgets)
            or self.tokens_per_request is not None
            or any(one.tokens_per_minute is not None for one in self.rates)
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be asked of Valkey."""
        return not self.rates and not self.budgets

    @classmethod
    def of(cls, limits: Sequence[Limit], *, weight: float) -> Self:
        """The policy of some limits: at most one of a measure on each subject."""
        most = [one.value for one in limits if one.measure == "tokens_per_request"]
        return cls(
            rates=list(_rates(limits)),
            budgets=[BudgetLimit(one.subject, one.window, one.value) for one in limits
                     if one.window is not None],
            tokens_per_request=min(most, default=None),
            refuses_without_store=any(
                one.without_store == "refuse" and one.measure != "tokens_per_request"
                for one in limits
            ),
            weight=weight,
        )  # fmt: skip


class Policies:
    """The policies of one database over the defaults of the configuration."""

    def __init__(
        self,
        database: Database,
        settings: AdmissionSettings,
        *,
        changes: Changes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._defaults = {
            "key": _defaults(settings.per_key),
            "tenant": _defaults(settings.per_tenant),
            "model": _defaults(settings.per_model),
        }
        self._cache: FreshCache[tuple[str, str, str], Policy] = FreshCache(
            self._ask,
            unavailable="Limits cannot be looked up at the moment. Try again soon.",
            clock=clock,
            subjects=lambda asked, _: [str(one) for one in _subjects(*asked)],
            changes=changes or Unannounced(),
        )

    async def of(self, principal: Principal, model: str) -> Policy:
        """Return the limits and budgets of a request of `principal` to `model`.

        A change that is announced is in it at once, any other within `fresh_cache.MAX_AGE_S`.

        Raises:
            StoreUnavailable: the database is away for longer than answers last.
        """
        asked = (principal.key_id, principal.tenant, model)
        found = self._cache.fresh(asked) or await self._cache.read(asked)
        return found.value

    async def of_caller(self, principal: Principal) -> Policy:
        """The rates of a key and its tenant, whatever the model. Raises as `of` does."""
        policy = await self.of(principal, NO_MODEL)
        own = str(Subject("model", NO_MODEL))
        rates = [one for one in policy.rates if one.subject != own]
        return replace(policy, rates=rates, budgets=(), tokens_per_request=None)

    async def _ask(self, asked: tuple[str, str, str]) -> Policy:
        _, tenant, _ = asked
        subjects = _subjects(*asked)
        async with self._database.session() as session:
            own = await limits_of(session, subjects)
            weight = await session.scalar(select(TenantRow.weight).where(TenantRow.name == tenant))
        limits = [limit for subject in subjects for limit in self._complete(subject, own)]
        return Policy.of(limits, weight=1.0 if weight is None else weight)

    def _complete(self, subject: Subject, own: Sequence[Limit]) -> Iterable[Limit]:
        """The limits of a subject, and defaults for the measures that it has none of."""
        mine = [limit for limit in own if limit.subject == subject]
        measured = {limit.measure for limit in mine}
        yield from mine
        for default in self._defaults[subject.kind]:
            if default.measure not in measured:
                yield Limit(subject, default.measure, default.value, default.without_store)


def _subjects(key_id: str, tenant: str, model: str) -> Sequence[Subject]:
    return Subject("key", key_id), Subject("tenant", tenant), Subject("model", model)


def _rates(limits: Sequence[Limit]) -> Iterable[RateLimits]:
    for subject in dict.fromkeys(limit.subject for limit in limits):
        found = {one.measure: one.value for one in limits if one.subject == subject}
        rates = RateLimits(
            str(subject),
            found.get("requests_per_minute"),
            found.get("tokens_per_minute"),
            found.get("concurrent_requests"),
        )
        if rates != RateLimits(str(subject)):
            yield rates


def _defaults(settings: RateDefaults) -> Sequence[Limit]:
    """Read the default limits from a group of the configuration."""
    anybody = Subject("key", "")
    measures = [*RATES, *map(budget_measure, WINDOWS)]
    found = ((measure, getattr(settings, measure, None)) for measure in measures)
    return [
        Limit(anybody, measure, _whole(bound.value), bound.without_store)
        for measure, bound in found
        if bound is not None
    ]


def _whole(value: int | Decimal) -> int:
    return value if isinstance(value, int) else int(value * NANOS)
