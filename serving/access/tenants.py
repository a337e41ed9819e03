"""The tenant store: creates, lists, weighs and deletes tenants.

Knows nothing of what they use; that stays when they are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy import Select, and_, bindparam, delete, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from serving.access.audit import COMMAND, Actor, record
from serving.access.errors import InvalidWeight, TenantExists, TenantNotFound
from serving.access.invalidation import Announce, to_nobody
from serving.access.names import check_name, is_name
from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.schema import ApiKey, LimitRow, TenantRow, UtcDateTime

DEFAULT_TENANT = "default"
"""The tenant of the key in the environment and of the keys of the first start."""

DEFAULT_WEIGHT = 1.0
MAX_WEIGHT = 1000.0

_ADD = text(
    "INSERT INTO tenants (name, created_at, weight) VALUES (:name, :created_at, :weight) "
    "ON CONFLICT (name) DO NOTHING RETURNING name"
).bindparams(bindparam("created_at", type_=UtcDateTime()))


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of keys, limits and usage. `weight` is its share of a contended engine.

    Of two tenants that keep one engine busy, one of weight 3 gets three times what one of 1 gets.
    """

    name: str
    created_at: datetime
    weight: float

    @classmethod
    def of(cls, row: TenantRow) -> Self:
        """Build the tenant from a row."""
        return cls(row.name, row.created_at, row.weight)


class TenantStore:
    """The tenants of one database. Methods raise `DatabaseUnavailable` as it does.

    Those that change one return when `announce` has told every gateway.
    """

    def __init__(
        self,
        database: Database,
        *,
        announce: Announce = to_nobody,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._announce = announce
        self._now = now

    async def list(self, *, limit: int | None = None, after: str = "") -> Sequence[Tenant]:
        """Tenants by name, the first `limit` of those that come after the name `after`."""
        query = select(TenantRow).where(TenantRow.name > after)
        query = query.order_by(TenantRow.name).limit(limit)
        async with self._database.session() as session:
            return [Tenant.of(row) for row in await session.scalars(query)]

    async def get(self, name: str) -> Tenant:
        """Return one tenant.

        Raises:
            TenantNotFound: there is none of that name.
        """
        async with self._database.session() as session:
            return Tenant.of(await _one(session, name, select(TenantRow)))

    async def create(
        self, name: str, *, weight: float = DEFAULT_WEIGHT, actor: Actor = COMMAND
    ) -> Tenant:
        """Add a tenant.

        Raises:
            InvalidName: it has characters or a length that it may not have.
            InvalidWeight: not above 0 and at most `MAX_WEIGHT`.
            TenantExists: there is one of that name.
        """
        check_name("tenant", name)
        tenant = Tenant(name, self._now(), _checked(weight))
        async with self._database.transaction() as session:
            if not await add_tenant(session, tenant, actor):
                raise TenantExists(f"a tenant {name!r} exists already")
        await self._announce(f"tenant:{name}")
        return tenant

    async def set_weight(self, name: str, weight: float, *, actor: Actor = COMMAND) -> Tenant:
        """Change a tenant's share of an engine under contention.

        Raises:
            InvalidWeight: not above 0 and at most `MAX_WEIGHT`.
            TenantNotFound: there is none of that name.
        """
        _checked(weight)
        async with self._database.transaction() as session:
            row = await _one(session, name, select(TenantRow).with_for_update())
            row.weight = weight
            subject = ("tenant", name)
            record(session, actor, "tenant.update", subject=subject, change={"weight": weight})
            tenant = Tenant.of(row)
        await self._announce(f"tenant:{name}")
        return tenant

    async def delete(self, name: str, *, actor: Actor = COMMAND) -> None:
        """Remove a tenant, its keys, and the limits of both; what they used stays recorded.

        Raises:
            TenantNotFound: there is none of that name.
        """
        keys = select(ApiKey.id).where(ApiKey.tenant == name)
        of_tenant = and_(LimitRow.subject_kind == "tenant", LimitRow.subject == name)
        of_keys = and_(LimitRow.subject_kind == "key", LimitRow.subject.in_(keys))
        async with self._database.transaction() as session:
            row = await _one(session, name, select(TenantRow).with_for_update())
            # Locked, so that a limit which is being set on one of them is there to be removed.
            gone = sorted(await session.scalars(keys.with_for_update()))
            await session.execute(delete(LimitRow).where(or_(of_tenant, of_keys)))
            await session.delete(row)
            record(session, actor, "tenant.delete", subject=("tenant", name), change={"keys": gone})
        await self._announce(f"tenant:{name}")


async def add_tenant(session: AsyncSession, tenant: Tenant, actor: Actor) -> bool:
    """Add a tenant, with its audit row, in the caller's transaction; whether it was missing."""
    values = {"name": tenant.name, "created_at": tenant.created_at, "weight": tenant.weight}
    added = (await session.execute(_ADD, values)).first() is not None
    if added:
        change = {"weight": tenant.weight}
        record(session, actor, "tenant.create", subject=("tenant", tenant.name), change=change)
    return added


async def hold_tenant(session: AsyncSession, name: str) -> None:
    """Keep a tenant from being deleted until the caller's transaction ends.

    Raises:
        TenantNotFound: there is none of that name.
    """
    # What a foreign key does when a row refers to it: others may do the same.
    await _one(session, name, select(TenantRow).with_for_update(read=True, key_share=True))


async def _one(session: AsyncSession, name: str, query: Select[TenantRow]) -> TenantRow:
    # PostgreSQL refuses to look for some texts that are no names.
    query = query.where(TenantRow.name == name)
    row = await session.scalar(query) if is_name(name) else None
    if row is None:
        raise TenantNotFound(f"no tenant {name[:64]!r}; `ringfence tenants list` shows them")
    return row


def _checked(weight: float) -> float:
    if not 0 < weight <= MAX_WEIGHT:
        raise InvalidWeight(f"a weight is above 0 and at most {MAX_WEIGHT:g}, not {weight:g}")
    return weight
