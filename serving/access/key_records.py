"""Records of keys: for display, for handing over a new key, and for checking one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self, cast

from pydantic import SecretStr

from serving.domain.principal import Principal, Role
from serving.domain.privacy_class import PrivacyClass
from serving.storage.schema import ApiKey

Status = Literal["active", "retiring", "revoked", "expired"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The displayable part of a key."""

    id: str
    tenant: str
    name: str
    role: Role
    last4: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    allowed_models: tuple[str, ...] | None
    privacy: PrivacyClass
    groups: tuple[str, ...]
    user: str | None
    rotated_from: str | None

    def status(self, now: datetime) -> Status:
        """Whether the key works at `now`. A retiring one does until `revoked_at`."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.revoked_at is None else "retiring"

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        """Build the displayable record from `row`."""
        return cls(
            id=row.id,
            tenant=row.tenant,
            name=row.name,
            role=cast("Role", row.role),
            last4=row.last4,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            allowed_models=None if row.allowed_models is None else tuple(row.allowed_models),
            privacy=cast("PrivacyClass", row.privacy),
            groups=tuple(row.groups or ()),
            user=row.user_name,
            rotated_from=row.rotated_from,
        )


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `key` is its text, which is stored nowhere."""

    record: KeyRecord
    key: SecretStr = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The part of a key that is needed to check it."""

    principal: Principal
    digest: bytes = field(repr=False)
    expires_at: datetime | None
    revoked_at: datetime | None

    def works(self, now: datetime) -> bool:
        """Whether the key is neither expired nor revoked at `now`."""
        return (self.expires_at is None or now < self.expires_at) and (
            self.revoked_at is None or now < self.revoked_at
        )

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        """Build the record for checks from `row`."""
        models = None if row.allowed_models is None else frozenset(row.allowed_models)
        principal = Principal(
            row.tenant,
            row.id,
            row.name,
            cast("Role", row.role),
            models,
            cast("PrivacyClass", row.privacy),
            frozenset(row.groups or ()),
            row.user_name,
        )
        return cls(principal, row.digest, row.expires_at, row.revoked_at)
