"""Limits and budgets of keys, tenants and models: what may be set, and where it is kept.

Knows what is allowed, not what was used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self, cast

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from serving.access.audit import COMMAND, Actor, record
from serving.access.authenticator import FIXED_PRINCIPAL
from serving.access.errors import InvalidLimit, LimitNotFound
from serving.access.invalidation import Announce, to_nobody
from serving.access.keys import hold_key
from serving.access.tenants import (
    DEFAULT_TENANT,
    DEFAULT_WEIGHT,
    Tenant,
    add_tenant,
    hold_tenant,
)
from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.schema import LimitRow
from serving.storage.upsert import insert

SubjectKind = Literal["key", "tenant", "model"]
SUBJECT_KINDS: tuple[SubjectKind, ...] = ("key", "tenant", "model")

WithoutStore = Literal["allow", "refuse"]
"""What a limit does while Valkey cannot be asked: let requests through, or refuse them."""

Rate = Literal[
    "requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_request"
]
RATES: tuple[Rate, ...] = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "tokens_per_request",
)
Window = Literal["day", "month", "total"]
WINDOWS: tuple[Window, ...] = ("day", "month", "total")
BudgetMeasure = Literal["budget_day", "budget_month", "budget_total"]
Measure = Rate | BudgetMeasure

MAX_VALUE = 2**53 - 1
"""Largest limit or budget. Valkey's scripts count in doubles, which are exact up to here."""

FIXED_KEY_ID = FIXED_PRINCIPAL.key_id
"""Id of the key in RINGFENCE_API_KEY, which no database knows."""

NANOS = 10**9
"""Billionths of the currency in one of it, as in Google's `Money`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a limit: a key by its id, a tenant or a model by its name."""

    kind: SubjectKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit or budget of a subject. A budget's `value` is in billionths of the currency."""

    subject: Subject
    measure: Measure
    value: int
    without_store: WithoutStore
    updated_at: datetime | None = None

    @property
    def window(self) -> Window | None:
        """The window of a budget; None for a rate."""
        _, found, window = self.measure.partition("budget_")
        return cast("Window", window) if found else None

    @classmethod
    def of(cls, row: LimitRow) -> Self:
        """Build the tenant from a row."""
        subject = Subject(cast("SubjectKind", row.subject_kind), row.subject)
        measure = cast("Measure", row.measure)
        policy = cast("WithoutStore", row.without_store)
        return cls(subject, measure, row.value, policy, row.updated_at)


def budget_measure(window: Window) -> BudgetMeasure:
    """The measure of a budget over that window."""
    return cast("BudgetMeasure", f"budget_{window}")


def default_policy(measure: Measure) -> WithoutStore:
    """Budgets refuse while nothing can be counted; rates let through."""
    return "refuse" if measure.startswith("budget_") else "allow"


class LimitValue(NamedTuple):
    """The value of a limit, and its policy while nothing can be counted."""

    value: int
    without_store: WithoutStore


class LimitStore:
    """The limits of one database. Methods raise `DatabaseUnavailable` as it does.

    Those that change one return when `announce` has told every gateway.
    """

    def __init__(self, database: Database, *, announce: Announce = to_nobody) -> None:
        self._database = database
        self._announce = announce

    async def set(self, limit: Limit, *, actor: Actor = COMMAND) -> Limit:
        """Set a limit, or change it; whether its subject exists is not asked.

        Raises:
            InvalidLimit: a value below 0 or above `MAX_VALUE`.
        """
        _check(limit)
        async with self._database.transaction() as session:
            put = await self._put(session, limit, actor)
        await self._announce(str(limit.subject))
        return put

    async def change(
        self,
        subject: Subject,
        changes: Mapping[Measure, LimitValue | None],
        *,
        actor: Actor = COMMAND,
    ) -> None:
        """Set several limits of a subject and, where None stands, take them away: all or nothing.

        What is taken away need not be there. The tenant `default` is added when it is missing.

        Raises:
            InvalidLimit: a value below 0 or above `MAX_VALUE`.
            KeyNotFound, TenantNotFound: no such subject; models are not asked for.
        """
        for measure, bound in changes.items():
            if bound is not None:
                _check(Limit(subject, measure, *bound))
        async with self._database.transaction() as session:
            await _hold(session, subject, actor)
            for measure, bound in sorted(changes.items()):  # One order, so nobody deadlocks.
                if bound is None:
                    await _drop(session, subject, [measure], actor)
                else:
                    await self._put(session, Limit(subject, measure, *bound), actor)
        await self._announce(str(subject))

    async def remove(self, subject: Subject, measure: Measure, *, actor: Actor = COMMAND) -> None:
        """Take a limit away.

        Raises:
            LimitNotFound: there is none.
        """
        await self.clear(subject, [measure], actor=actor)

    async def clear(
        self, subject: Subject, measures: Sequence[Measure], *, actor: Actor = COMMAND
    ) -> None:
        """Take away what a subject has of some limits.

        Raises:
            LimitNotFound: it has none of them.
        """
        async with self._database.transaction() as session:
            if not await _drop(session, subject, measures, actor):
                which = measures[0] if len(measures) == 1 else "such limit"
                raise LimitNotFound(f"no {which} is set for {subject.kind} {subject.name[:128]!r}")
        await self._announce(str(subject))

    async def _put(self, session: AsyncSession, limit: Limit, actor: Actor) -> Limit:
        change = {
            "measure": limit.measure,
            "value": limit.value,
            "without_store": limit.without_store,
        }
        identity = {"subject_kind": limit.subject.kind, "subject": limit.subject.name}
        statement = insert(self._database.dialect, LimitRow).values(
            **identity, **change, updated_at=utc_now()
        )
        statement = statement.on_conflict_do_update(
            index_elements=[*identity, "measure"],
            set_={at: statement.excluded[at] for at in ("value", "without_store", "updated_at")},
        )
        row = await session.scalars(statement.returning(LimitRow))
        _audit(session, actor, "limit.set", limit.subject, change)
        return Limit.of(row.one())

    async def list(self, subject: Subject | None = None) -> Sequence[Limit]:
        """Every limit (of one subject), by kind, subject and measure."""
        query = select(LimitRow).order_by(LimitRow.subject_kind, LimitRow.subject, LimitRow.measure)
        if subject is not None:
            query = query.where(_is(subject))
        async with self._database.session() as session:
            return [Limit.of(row) for row in await session.scalars(query)]


async def limits_of(session: AsyncSession, subjects: Iterable[Subject]) -> Sequence[Limit]:
    """The limits of some subjects."""
    query = select(LimitRow).where(or_(*map(_is, subjects)))
    return [Limit.of(row) for row in await session.scalars(query)]


def _check(limit: Limit) -> None:
    if not 0 <= limit.value <= MAX_VALUE:
        raise InvalidLimit(f"{limit.measure} must be 0 to {MAX_VALUE}, not {limit.value}")


async def _hold(session: AsyncSession, subject: Subject, actor: Actor) -> None:
    """Keep a key or a tenant from being deleted until the caller's transaction ends."""
    if subject.kind == "tenant":
        if subject.name == DEFAULT_TENANT:
            default = Tenant(DEFAULT_TENANT, utc_now(), DEFAULT_WEIGHT)
            await add_tenant(session, default, actor)
        await hold_tenant(session, subject.name)
    if subject.kind == "key" and subject.name != FIXED_KEY_ID:
        await hold_key(session, subject.name)


async def _drop(
    session: AsyncSession, subject: Subject, measures: Iterable[Measure], actor: Actor
) -> bool:
    """Remove limits, with an audit row for each; whether there was any."""
    gone = await session.scalars(
        delete(LimitRow)
        .where(_is(subject), LimitRow.measure.in_(measures))
        .returning(LimitRow.measure)
    )
    removed = sorted(gone)
    for measure in removed:
        _audit(session, actor, "limit.remove", subject, {"measure": measure})
    return bool(removed)


def _audit(
    session: AsyncSession, actor: Actor, action: str, subject: Subject, change: dict[str, Any]
) -> None:
    record(session, actor, action, subject=(subject.kind, subject.name), change=change)


def _is(subject: Subject) -> ColumnElement[bool]:
    return and_(LimitRow.subject_kind == subject.kind, LimitRow.subject == subject.name)
