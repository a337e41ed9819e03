"""Authentication: turns an Authorization header, or a bare key, into its principal.

Takes and raises plain values; which header or status is the gateway's business.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from datetime import datetime

from pydantic import SecretStr

from serving.access.fresh_cache import Cached, Changes, FreshCache, Unannounced
from serving.access.key_records import StoredKey
from serving.access.key_text import KeyMint, public_id
from serving.access.keys import KeyStore
from serving.domain.clock import utc_now
from serving.domain.errors import InvalidKey, MissingKey
from serving.domain.principal import Principal

MAX_HEADER_CHARS = 256

FIXED_PRINCIPAL = Principal(
    tenant="default", key_id="env", key_name="env", role="inference", allowed_models=None
)
"""The principal of the key in the environment."""

_SENDABLE = re.compile(rf"[!-~]{{1,{MAX_HEADER_CHARS - len('Bearer ')}}}")
_UNKNOWN_DIGEST = secrets.token_bytes(32)  # Compared with where there is no digest.


class Authenticator:
    """Checks keys. A good key costs no database query but once every `fresh_cache.TTL_S`.

    A revocation that is announced takes effect at once and any other change within
    `fresh_cache.MAX_AGE_S`; an expiry at once. While the database is away nothing older than that
    is believed.

    Args:
        store: where keys are.
        secret: the server secret under which they were issued.
        fixed_key: one more key to accept, from the operator's environment.
        changes: tells of keys and tenants that have changed.
        clock: seconds that never go back, for the ages of cached answers.
        now: the wall clock, for expiry.

    Raises:
        ValueError: `fixed_key` could never be sent in a header.
    """

    def __init__(
        self,
        store: KeyStore,
        secret: SecretStr,
        *,
        fixed_key: SecretStr | None,
        changes: Changes | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._mint = KeyMint(secret)
        self._cache: FreshCache[str, StoredKey | None] = FreshCache(
            store.find,
            unavailable="API keys cannot be checked at the moment. Try again soon.",
            clock=clock,
            subjects=_subjects,
            changes=changes or Unannounced(),
        )
        self._now = now
        self._fixed_digest = None if fixed_key is None else self._digest_of_fixed(fixed_key)

    def _digest_of_fixed(self, fixed_key: SecretStr) -> bytes:
        key = fixed_key.get_secret_value()
        if not _SENDABLE.fullmatch(key):
            raise ValueError(f"the fixed key does not match ^{_SENDABLE.pattern}$")
        return self._mint.digest(key)

    async def authenticate(self, header_value: str | None) -> Principal:
        """The principal of an Authorization header's value (`Bearer <key>`, RFC 6750).

        Raises:
            MissingKey: no header, or no key in it.
            InvalidKey: another scheme, or a key that is malformed, unknown, expired or revoked.
            StoreUnavailable: the database is away for longer than cached answers last.
        """
        return await self.authenticate_key(_token(header_value or ""))

    async def authenticate_key(self, key: str | None) -> Principal:
        """The principal of a key that comes without a scheme (`x-api-key`); raises the same."""
        if not key:
            raise _missing()
        if len(key) > MAX_HEADER_CHARS or not key.isascii():
            raise _invalid()
        digest = self._mint.digest(key)
        if self._fixed_digest is not None and hmac.compare_digest(digest, self._fixed_digest):
            return FIXED_PRINCIPAL
        key_id = public_id(key)
        if key_id is None:
            raise _invalid()
        found = (self._cache.fresh(key_id) or await self._read(key_id, key)).value
        expected = _UNKNOWN_DIGEST if found is None else found.digest
        if not hmac.compare_digest(digest, expected) or found is None:
            raise _invalid()
        if not found.works(self._now()):
            raise _invalid()
        return found.principal

    async def still_works(self, key_id: str) -> bool:
        """Whether a key that was accepted before would be now. Raises `StoreUnavailable`."""
        if key_id == FIXED_PRINCIPAL.key_id:
            return True
        found = (self._cache.fresh(key_id) or await self._cache.read(key_id)).value
        return found is not None and found.works(self._now())

    async def _read(self, key_id: str, key: str) -> Cached[StoredKey | None]:
        """Ask the store, but only about keys this server made: others cost it nothing."""
        if not self._mint.issued(key):
            raise _invalid()
        return await self._cache.read(key_id)


def _subjects(key_id: str, key: StoredKey | None) -> Collection[str]:
    """The subjects under which changes of a key are announced."""
    of_key = f"key:{key_id}"
    return (of_key,) if key is None else (of_key, f"tenant:{key.principal.tenant}")


def _token(header_value: str) -> str:
    if len(header_value) > MAX_HEADER_CHARS:
        raise _invalid()
    scheme, _, token = header_value.strip(" \t").partition(" ")
    if not scheme:
        raise _missing()
    if scheme.lower() != "bearer":
        raise _invalid()
    return token.strip(" \t")


def _missing() -> MissingKey:
    return MissingKey("No API key was sent. Send it as 'Authorization: Bearer <key>'.")


def _invalid() -> InvalidKey:
    """Every reason gets the same message, so that a caller learns nothing from it."""
    return InvalidKey("The API key is not valid.")
