"""The key store: creates, lists, revokes, rotates and finds API keys.

Only a digest of each key is kept; see `key_text` for what a key looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pydantic import SecretStr
from sqlalchemy import Select, and_, bindparam, insert, literal, or_, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from serving.access.audit import COMMAND, Actor, record
from serving.access.errors import (
    InvalidTime,
    KeyAmbiguous,
    KeyInactive,
    KeyNameTaken,
    KeyNotFound,
)
from serving.access.invalidation import Announce, to_nobody
from serving.access.key_records import IssuedKey, KeyRecord, StoredKey
from serving.access.key_text import KeyMint, public_id
from serving.access.names import check_model, check_name, is_name
from serving.access.tenants import DEFAULT_WEIGHT, Tenant, add_tenant, hold_tenant
from serving.domain.clock import utc_now
from serving.domain.principal import Role
from serving.domain.privacy_class import PrivacyClass
from serving.storage.database import Database
from serving.storage.schema import ApiKey, LimitRow

MAX_GRACE_S = 30 * 86_400.0

_KEYS = select(ApiKey)
_ORDER = (ApiKey.tenant, ApiKey.name, ApiKey.created_at, ApiKey.id)


class KeyStore:
    """The keys of one database under one server secret.

    A method that changes a key that may be in use returns when `announce` has told every gateway.
    Every method raises `DatabaseUnavailable` when the database does not answer in time.
    """

    def __init__(
        self,
        database: Database,
        secret: SecretStr,
        *,
        announce: Announce = to_nobody,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._mint = KeyMint(secret)
        self._announce = announce
        self._now = now

    async def create(
        self,
        tenant: str,
        name: str,
        *,
        role: Role = "inference",
        expires_at: datetime | None = None,
        allowed_models: Iterable[str] | None = None,
        privacy: PrivacyClass = "local_only",
        groups: Iterable[str] = (),
        user: str | None = None,
        new_tenant: bool = True,
        actor: Actor = COMMAND,
    ) -> IssuedKey:
        """Issue a key, and with `new_tenant` add its tenant when that is missing.

        Raises:
            InvalidName: of the tenant, the key, a model, a group or the user.
            InvalidTime: `expires_at` has passed or has no time zone.
            KeyNameTaken: the tenant has such a key that is not revoked, if perhaps expired.
            TenantNotFound: there is no such tenant, and none was to be added.
        """
        check_name("tenant", tenant)
        check_name("key name", name)
        models = None if allowed_models is None else sorted(set(allowed_models))
        for model in models or ():
            check_model(model)
        for group in (members := sorted(set(groups))):
            check_name("group", group)
        if user is not None:
            check_name("user", user)
        now = self._now()
        if expires_at is not None:
            _check_expiry(expires_at, now)
        key = self._mint.new(role)
        row = ApiKey(tenant=tenant, name=name, role=role, allowed_models=models)
        row.expires_at, row.privacy = expires_at, privacy
        row.groups, row.user_name = members or None, user
        async with self._database.transaction() as session:
            if new_tenant:
                await add_tenant(session, Tenant(tenant, now, DEFAULT_WEIGHT), actor)
            else:
                await hold_tenant(session, tenant)
            issued = await self._issue(session, key, row, now)
            _audit(session, actor, "key.create", row, _rights(row))
            return issued

    async def list(
        self, tenant: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Keys (of one tenant), revoked ones too, by tenant, name and age.

        Args:
            tenant: whose keys.
            limit: how many at most.
            after: the id of the key that the first one follows.

        Raises:
            InvalidName: of the tenant.
            KeyNotFound: no key has the id `after`.
        """
        query = select(ApiKey).order_by(*_ORDER).limit(limit)
        if tenant is not None:
            query = query.where(ApiKey.tenant == check_name("tenant", tenant))
        async with self._database.session() as session:
            if after is not None:
                last = await _by_id(session, after)
                query = query.where(tuple_(*_ORDER) > tuple_(*_position(last)))
            return [KeyRecord.of(row) for row in await session.scalars(query)]

    async def get(self, key_id: str) -> KeyRecord:
        """Return the record of the key with that public id, revoked or not.

        Raises:
            KeyNotFound: there is none.
        """
        async with self._database.session() as session:
            return KeyRecord.of(await _by_id(session, key_id))

    async def find(self, key_id: str) -> StoredKey | None:
        """The key of that public id, revoked or not."""
        async with self._database.session() as session:
            row = await session.get(ApiKey, key_id)
        return None if row is None else StoredKey.of(row)

    async def revoke(
        self, id_or_name: str, tenant: str | None = None, *, actor: Actor = COMMAND
    ) -> KeyRecord:
        """Revoke a key at once, even a retiring one. A revoked or expired key stays as it is.

        Raises:
            KeyNotFound: no such id, and no such name among keys that are not revoked.
            KeyAmbiguous: keys of several tenants have the name.
        """
        async with self._database.transaction() as session:
            row = await _resolve(session, id_or_name, tenant)
            now = self._now()
            if row.revoked_at is None or row.revoked_at > now:
                row.revoked_at = now
                _audit(session, actor, "key.revoke", row, {})
            record = KeyRecord.of(row)
        await self._announce(f"key:{record.id}")
        return record

    async def rotate(
        self,
        id_or_name: str,
        tenant: str | None = None,
        *,
        grace_s: float = 0.0,
        actor: Actor = COMMAND,
    ) -> IssuedKey:
        """Replace a key by one with the same name, rights, limits and budgets.

        Both work for `grace_s` seconds.

        Raises:
            InvalidTime: `grace_s` is not between 0 and `MAX_GRACE_S`.
            KeyInactive: the key is revoked, rotated or expired.
            KeyNotFound, KeyAmbiguous: as `revoke` does.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise InvalidTime(f"a grace of {grace_s} s is not between 0 and {MAX_GRACE_S:.0f} s")
        async with self._database.transaction() as session:
            old = await _resolve(session, id_or_name, tenant)
            now = self._now()
            if (status := KeyRecord.of(old).status(now)) != "active":
                raise KeyInactive(f"key {old.id!r} is {status}; create a new one instead")
            old.revoked_at = now + timedelta(seconds=grace_s)
            await session.flush()  # Frees the name.
            row = ApiKey(tenant=old.tenant, name=old.name, role=old.role, rotated_from=old.id)
            row.allowed_models, row.expires_at = old.allowed_models, old.expires_at
            row.privacy, row.groups, row.user_name = old.privacy, old.groups, old.user_name
            issued = await self._issue(session, self._mint.new(cast("Role", old.role)), row, now)
            await _copy_limits(session, old.id, row.id)
            _audit(session, actor, "key.rotate", old, {"successor": row.id, "grace_s": grace_s})
        await self._announce(f"key:{issued.record.rotated_from}")
        return issued

    async def _issue(
        self, session: AsyncSession, key: SecretStr, row: ApiKey, now: datetime
    ) -> IssuedKey:
        """Complete `row` with what comes from the key's text, and insert it."""
        plain = key.get_secret_value()
        row.id = cast("str", public_id(plain))
        row.digest, row.last4, row.created_at = self._mint.digest(plain), plain[-4:], now
        session.add(row)
        try:
            await session.flush()
        except IntegrityError:
            raise KeyNameTaken(
                f"tenant {row.tenant!r} has a key {row.name!r} already; revoke or rotate that, or "
                "take another name"
            ) from None
        return IssuedKey(KeyRecord.of(row), key)


def _rights(row: ApiKey) -> dict[str, Any]:
    expires = None if row.expires_at is None else row.expires_at.isoformat()
    return {
        "role": row.role,
        "expires_at": expires,
        "allowed_models": row.allowed_models,
        "privacy": row.privacy,
        "groups": row.groups or [],
        "user": row.user_name,
    }


def _audit(
    session: AsyncSession, actor: Actor, action: str, row: ApiKey, change: dict[str, Any]
) -> None:
    named = {"tenant": row.tenant, "name": row.name}
    record(session, actor, action, subject=("key", row.id), change=named | change)


async def _copy_limits(session: AsyncSession, old_id: str, new_id: str) -> None:
    """Give a key the limits of another; without them a rotation would be a way around them."""
    kept = (LimitRow.measure, LimitRow.value, LimitRow.without_store, LimitRow.updated_at)
    copies = select(literal("key"), literal(new_id), *kept).where(
        LimitRow.subject_kind == "key", LimitRow.subject == old_id
    )
    columns = ["subject_kind", "subject", *(column.key for column in kept)]
    await session.execute(insert(LimitRow).from_select(columns, copies))


def _check_expiry(expires_at: datetime, now: datetime) -> None:
    if expires_at.tzinfo is None:
        raise InvalidTime(f"the expiry {expires_at} has no time zone")
    try:
        passed = expires_at.astimezone(UTC) <= now
    except OverflowError:
        raise InvalidTime(f"the expiry {expires_at} is too far away") from None
    if passed:
        raise InvalidTime(f"the expiry {expires_at} has passed")


async def hold_key(session: AsyncSession, key_id: str) -> None:
    """Keep a key from being deleted until the caller's transaction ends.

    Raises:
        KeyNotFound: no key has that id.
    """
    await _by_id(session, key_id, select(ApiKey).with_for_update(read=True, key_share=True))


async def _by_id(session: AsyncSession, key_id: str, query: Select[ApiKey] = _KEYS) -> ApiKey:
    # PostgreSQL refuses to look for some texts that are no ids.
    row = await session.scalar(query.where(ApiKey.id == key_id)) if is_name(key_id) else None
    if row is None:
        raise KeyNotFound(f"no key has the id {key_id[:64]!r}; `ringfence keys list` shows them")
    return row


def _position(row: ApiKey) -> Iterator[Any]:
    """Return the position of `row` in `_ORDER`."""
    for column in _ORDER:
        yield bindparam(None, getattr(row, column.key), type_=column.type)


async def _resolve(session: AsyncSession, id_or_name: str, tenant: str | None) -> ApiKey:
    """Find the one key that is meant, and lock it until the transaction ends."""
    live_name = and_(ApiKey.name == id_or_name, ApiKey.revoked_at.is_(None))
    query = select(ApiKey).where(or_(ApiKey.id == id_or_name, live_name)).with_for_update()
    if tenant is not None:
        query = query.where(ApiKey.tenant == check_name("tenant", tenant))
    found = (await session.scalars(query)).all() if is_name(id_or_name) else []
    found = [row for row in found if row.id == id_or_name] or found
    if not found:
        raise KeyNotFound(f"no key {id_or_name[:64]!r}; `ringfence keys list` shows them")
    if len(found) > 1:
        tenants = ", ".join(sorted(row.tenant for row in found))
        raise KeyAmbiguous(f"several tenants have a key {id_or_name!r} ({tenants}); give its id")
    return found[0]
