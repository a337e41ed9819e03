"""The key store: API keys are created, listed, revoked, rotated and found here.

Only a digest of each key is kept; see `key_text` for what a key looks like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from pydantic import SecretStr
from sqlalchemy import and_, bindparam, or_, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from serving.access.errors import (
    InvalidName,
    InvalidTime,
    KeyAmbiguous,
    KeyInactive,
    KeyNameTaken,
    KeyNotFound,
)
from serving.access.key_text import KeyMint, public_id
from serving.access.principal import Role
from serving.access.records import IssuedKey, KeyRecord, StoredKey
from serving.storage.database import Database
from serving.storage.schema import ApiKey, UtcDateTime

MAX_GRACE_S = 30 * 86_400.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_ADD_TENANT = text(
    "INSERT INTO tenants (name, created_at) VALUES (:name, :created_at) "
    "ON CONFLICT (name) DO NOTHING"
).bindparams(bindparam("created_at", type_=UtcDateTime()))


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class KeyStore:
    """The keys of one database under one server secret.

    Every method raises `DatabaseUnavailable` when the database does not answer in time.
    """

    def __init__(
        self, database: Database, secret: SecretStr, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._mint = KeyMint(secret)
        self._now = now

    async def create(
        self,
        tenant: str,
        name: str,
        *,
        role: Role = "inference",
        expires_at: datetime | None = None,
        allowed_models: Iterable[str] | None = None,
    ) -> IssuedKey:
        """Issue a key, and add its tenant when that is new.

        Raises:
            InvalidName: of the tenant, the key or a model.
            InvalidTime: `expires_at` has passed or has no time zone.
            KeyNameTaken: the tenant has such a key that is not revoked, if perhaps expired.
        """
        _check(_NAME, "tenant", tenant)
        _check(_NAME, "key name", name)
        models = None if allowed_models is None else sorted(set(allowed_models))
        for model in models or ():
            _check(_MODEL, "model", model)
        now = self._now()
        if expires_at is not None:
            _check_expiry(expires_at, now)
        key = self._mint.new(role)
        row = ApiKey(tenant=tenant, name=name, role=role, allowed_models=models)
        row.expires_at = expires_at
        async with self._database.transaction() as session:
            await session.execute(_ADD_TENANT, {"name": tenant, "created_at": now})
            return await self._issue(session, key, row, now)

    async def list(self, tenant: str | None = None) -> Sequence[KeyRecord]:
        """Every key (of one tenant), revoked ones too, by tenant, name and age."""
        query = select(ApiKey).order_by(ApiKey.tenant, ApiKey.name, ApiKey.created_at, ApiKey.id)
        if tenant is not None:
            query = query.where(ApiKey.tenant == _check(_NAME, "tenant", tenant))
        async with self._database.session() as session:
            return [KeyRecord.of(row) for row in await session.scalars(query)]

    async def find(self, key_id: str) -> StoredKey | None:
        """The key of that public id, revoked or not."""
        async with self._database.session() as session:
            row = await session.get(ApiKey, key_id)
        return None if row is None else StoredKey.of(row)

    async def revoke(self, id_or_name: str, tenant: str | None = None) -> KeyRecord:
        """End a key at once, a retiring one too; one that has ended stays as it is.

        Raises:
            KeyNotFound: no such id, and no such name among keys that are not revoked.
            KeyAmbiguous: keys of several tenants have the name.
        """
        async with self._database.transaction() as session:
            row = await _resolve(session, id_or_name, tenant)
            now = self._now()
            if row.revoked_at is None or row.revoked_at > now:
                row.revoked_at = now
            return KeyRecord.of(row)

    async def rotate(
        self, id_or_name: str, tenant: str | None = None, *, grace_s: float = 0.0
    ) -> IssuedKey:
        """Replace a key by one with the same name and rights; both work for `grace_s` seconds.

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
            return await self._issue(session, self._mint.new(cast("Role", old.role)), row, now)

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


def _check(pattern: re.Pattern[str], what: str, value: str) -> str:
    if not pattern.fullmatch(value):
        raise InvalidName(f"the {what} {value[:140]!r} does not match ^{pattern.pattern}$")
    return value


def _check_expiry(expires_at: datetime, now: datetime) -> None:
    if expires_at.tzinfo is None:
        raise InvalidTime(f"the expiry {expires_at} has no time zone")
    try:
        passed = expires_at.astimezone(UTC) <= now
    except OverflowError:
        raise InvalidTime(f"the expiry {expires_at} is too far away") from None
    if passed:
        raise InvalidTime(f"the expiry {expires_at} has passed")


async def _resolve(session: AsyncSession, id_or_name: str, tenant: str | None) -> ApiKey:
    """The one key meant, locked until the transaction ends."""
    live_name = and_(ApiKey.name == id_or_name, ApiKey.revoked_at.is_(None))
    query = select(ApiKey).where(or_(ApiKey.id == id_or_name, live_name)).with_for_update()
    if tenant is not None:
        query = query.where(ApiKey.tenant == _check(_NAME, "tenant", tenant))
    found = (await session.scalars(query)).all() if _NAME.fullmatch(id_or_name) else []
    found = [row for row in found if row.id == id_or_name] or found
    if not found:
        raise KeyNotFound(f"no key {id_or_name[:64]!r}; `ringfence keys list` shows them")
    if len(found) > 1:
        tenants = ", ".join(sorted(row.tenant for row in found))
        raise KeyAmbiguous(f"several tenants have a key {id_or_name!r} ({tenants}); give its id")
    return found[0]
