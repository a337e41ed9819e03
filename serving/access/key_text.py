"""The text of an API key: `sk-rf-<id, 12 base62>-<secret, 43 base62>`; `sk-rfadmin-` for admins.

The secret is 37 random digits (220 bits) and 6 that are an HMAC of all before them. So a text that
this server never issued is known without the database, and a flood of made-up keys cannot reach it.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string

from pydantic import SecretStr

from serving.access.errors import SecretUnsafe
from serving.domain.principal import Role

MIN_SECRET_CHARS = 32

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PREFIXES: dict[Role, str] = {"inference": "sk-rf", "admin": "sk-rfadmin"}
_KEY = re.compile(r"sk-rf(?:admin)?-([0-9A-Za-z]{12})-[0-9A-Za-z]{43}")
_RANDOM_CHARS = 37
_SEAL_CHARS = 6


def public_id(key: str) -> str | None:
    """The id inside a key's text; None for any other text."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


class KeyMint:
    """Makes key texts and recognises its own, under one server secret.

    Raises:
        SecretUnsafe: the secret is shorter than `MIN_SECRET_CHARS`.
    """

    def __init__(self, secret: SecretStr) -> None:
        text = secret.get_secret_value()
        if len(text) < MIN_SECRET_CHARS:
            raise SecretUnsafe(
                f"the server secret has {len(text)} characters; {MIN_SECRET_CHARS} are the least"
            )
        self._secret = text.encode()

    def new(self, role: Role) -> SecretStr:
        """Make a new random key."""
        body = f"{_PREFIXES[role]}-{_random(12)}-{_random(_RANDOM_CHARS)}"
        return SecretStr(body + self._seal(body))

    def issued(self, key: str) -> bool:
        """Whether this server made that text; it may since be revoked, expired or deleted."""
        body, seal = key[:-_SEAL_CHARS], key[-_SEAL_CHARS:]
        return hmac.compare_digest(self._seal(body).encode(), seal.encode())

    def digest(self, key: str) -> bytes:
        """Return the stored form of a key: HMAC-SHA256 (RFC 2104) of its whole text, 32 bytes."""
        return hmac.digest(self._secret, key.encode(), "sha256")

    def _seal(self, body: str) -> str:
        # No key starts with "seal:", so this never equals a stored digest.
        number = int.from_bytes(hmac.digest(self._secret, b"seal:" + body.encode(), "sha256"))
        digits = []
        for _ in range(_SEAL_CHARS):
            number, digit = divmod(number, len(_BASE62))
            digits.append(_BASE62[digit])
        return "".join(digits)


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))
