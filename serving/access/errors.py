"""Errors of access: `AccessError` for callers with a key, `KeysError` for those who manage keys."""

from __future__ import annotations

from serving.domain.errors import (
    AccessError,
    InvalidKey,
    MissingKey,
    NotPermitted,
    StoreUnavailable,
)

__all__ = [
    "AccessError",
    "InvalidKey",
    "InvalidLimit",
    "InvalidName",
    "InvalidTime",
    "InvalidWeight",
    "KeyAmbiguous",
    "KeyInactive",
    "KeyNameTaken",
    "KeyNotFound",
    "KeysError",
    "LimitNotFound",
    "MissingKey",
    "NotPermitted",
    "SecretUnsafe",
    "StoreUnavailable",
    "TenantExists",
    "TenantNotFound",
]


class KeysError(Exception):
    """Managing keys failed, for a reason the manager can act on.

    AccessError              in `serving.domain.errors`, with the rest of what a client is told
    ├── MissingKey
    ├── InvalidKey           malformed, unknown, expired or revoked: the message is the same
    ├── NotPermitted
    └── StoreUnavailable

    KeysError
    ├── InvalidName          of a tenant, key or model
    ├── InvalidTime          expiry in the past or without a zone, grace out of bounds
    ├── KeyNameTaken         another key of the tenant, not revoked, has the name
    ├── KeyNotFound
    ├── KeyAmbiguous         keys of several tenants have the name
    ├── KeyInactive          revoked, rotated or expired, so it cannot be rotated
    ├── InvalidLimit         a limit's value is out of bounds
    ├── LimitNotFound
    ├── TenantNotFound
    ├── TenantExists         a new tenant has the name of another
    ├── InvalidWeight        a tenant's weight is out of bounds
    └── SecretUnsafe         the server secret is too short, or others can read it
    """


class InvalidName(KeysError):
    """A name has characters or a length that it may not have."""


class InvalidTime(KeysError):
    """A time lies where it makes no sense."""


class KeyNameTaken(KeysError):
    """The tenant has a key of that name which is not revoked."""


class KeyNotFound(KeysError):
    """No key has that id, and none that is not revoked has that name."""


class KeyAmbiguous(KeysError):
    """A name alone does not say which key is meant."""


class KeyInactive(KeysError):
    """The key is revoked, rotated or expired."""


class InvalidLimit(KeysError):
    """A limit or a budget has a value that it may not have."""


class LimitNotFound(KeysError):
    """The subject has no such limit."""


class TenantNotFound(KeysError):
    """No tenant has that name."""


class TenantExists(KeysError):
    """A tenant has that name already."""


class InvalidWeight(KeysError):
    """A tenant's weight is not above 0, or too large."""


class SecretUnsafe(KeysError):
    """The server secret could be guessed or read by others."""
