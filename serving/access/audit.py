"""The audit: one row for every change of tenants, keys, limits and budgets, in its transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.schema import AuditEventRow as AuditRow

Actor = str
"""Who changes something: the id of an admin key, or `COMMAND`."""

COMMAND: Actor = "command"
"""The actor of changes that `ringfence` makes on a machine that can open the database."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """A change that was made."""

    id: int
    at: datetime
    actor: Actor
    action: str
    subject_kind: str
    subject: str
    change: dict[str, Any]


def record(
    session: AsyncSession,
    actor: Actor,
    action: str,
    *,
    subject: tuple[str, str],
    change: Mapping[str, Any],
) -> None:
    """Add a row to the change's own transaction: both are there afterwards, or neither.

    Args:
        session: of the change.
        actor: who makes it.
        action: what is done, such as `key.revoke`.
        subject: the kind and the name of what is changed.
        change: what it is changed to; never a secret.
    """
    session.add(
        AuditRow(
            at=utc_now(),
            actor=actor,
            action=action,
            subject_kind=subject[0],
            subject=subject[1],
            change=dict(change),
        )
    )


async def events(
    database: Database, *, limit: int, before: int | None = None
) -> Sequence[AuditEvent]:
    """The newest changes first, `limit` of them, older than the event `before`."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditRow.id < before)
    async with database.session() as session:
        return [
            AuditEvent(
                row.id, row.at, row.actor, row.action, row.subject_kind, row.subject, row.change
            )
            for row in await session.scalars(query)
        ]
