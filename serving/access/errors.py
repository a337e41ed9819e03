"""What access raises: `AccessError` to a caller with a key, `KeysError` to whoever manages keys."""

from __future__ import annotations

from serving.errors import AccessError, InvalidKey, MissingKey, NotPermitted, StoreUnavailable

__all__ = [
    "AccessError",
    "InvalidKey",
    "InvalidName",
    "InvalidTime",
    "KeyAmbiguous",
    "KeyInactive",
    "KeyNameTaken",
    "KeyNotFound",
    "KeysError",
    "MissingKey",
    "NotPermitted",
    "SecretUnsafe",
    "StoreUnavailable",
]


class KeysError(Exception):
    """Managing keys failed, for a reason the manager can act on.

    AccessError              in `serving.errors`, with the rest of what a client is told
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


class SecretUnsafe(KeysError):
    """The server secret could be guessed or read by others."""
