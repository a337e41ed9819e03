"""Pseudonyms: what stands for a value outside, such as `PERSON_7KQ2M9XD`. One map for one request.

Letters, digits and underscores only: models copy that faithfully, and neither JSON nor Markdown has
to escape it. The same value has the same pseudonym all through a conversation. Nobody without the
server secret can tell pseudonyms of two tenants or conversations apart, or guess one.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Collection, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import SecretStr

from serving.privacy.spans import EntityType

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's 32 (https://www.crockford.com/base32.html): without I, L, O and U."""

TAG_CHARS = 8
"""Characters of a tag: 40 bits. Tags without a digit are not used, as they might be words."""

CALL = "CALL"
"""The label of ids that only have to match each other."""

_WORDS: frozenset[str] = frozenset({"PERSON", "ORGANISATION", "PLACE", "ADDRESS", "EMAIL"})
"""Types that mean the same in any case and spacing. All else comes back exactly as written: a
number with separators and one without would not fit into each other's places."""


def conversation_id(secret: SecretStr, tenant: str, body: Mapping[str, Any]) -> str:
    """Identify a conversation by what its first request and later ones have in common.

    A keyed digest of `user` and of everything up to the first user message; of the whole prompt or
    input where there are no messages. Conversations of a tenant that begin alike have one id.
    """
    messages = body.get("messages") or []
    users = [at for at, message in enumerate(messages) if message.get("role") == "user"]
    beginning = messages[: users[0] + 1] if users else messages
    told = [body.get("user"), beginning, body.get("prompt"), body.get("input")]
    scope = f"conversation:{len(tenant)}:{tenant}:".encode()
    written = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    return hmac.digest(secret.get_secret_value().encode(), scope + written, "sha256").hex()[:32]


def conversation_key(secret: SecretStr, tenant: str, conversation: str) -> bytes:
    """The key that makes a conversation's pseudonyms. It never leaves the process."""
    scope = f"pseudonyms:{len(tenant)}:{tenant}:{conversation}".encode()
    return hmac.digest(secret.get_secret_value().encode(), scope, "sha256")


class Pseudonyms:
    """Pseudonyms of one request, and the values they stand for. In memory only.

    Args:
        key: of the conversation; see `conversation_key`.
        never_restored: types whose values are kept out of answers.
    """

    def __init__(self, key: bytes, *, never_restored: Collection[EntityType] = ()) -> None:
        self._key = key
        self._never_restored = frozenset[str](never_restored)
        self._by_value: dict[tuple[str, str, str], str] = {}
        self._values: dict[str, str] = {}
        self._kept: set[str] = set()  # Those that stay in the answer.

    def __repr__(self) -> str:
        return f"Pseudonyms({len(self._by_value)})"

    def __contains__(self, text: str) -> bool:
        """Whether that very text is a pseudonym of this request."""
        return text in self._values or text in self._kept

    @property
    def values(self) -> Mapping[str, str]:
        """The value of each pseudonym that is to be restored."""
        return MappingProxyType(self._values)

    @property
    def issued(self) -> frozenset[str]:
        """All pseudonyms, including those that are never restored."""
        return frozenset(self._values) | self._kept

    def of(self, value: str, entity: EntityType) -> str:
        """The pseudonym of a value.

        Names and addresses that differ in case or spacing share one, and are restored as the first
        of them was written.
        """
        kept = entity in self._never_restored
        return self._issue("value", entity, _canonical(value, entity), None if kept else value)

    def of_look_alike(self, text: str, label: str) -> str:
        """Replace text that only looks like a pseudonym, so that it comes back unchanged.

        One that this request itself issued and never restores stands for itself.
        """
        if text in self._kept:
            return text
        return self._issue("look-alike", label, text, text)

    def of_id(self, text: str) -> str:
        """Replace an id that only has to be the same in all places."""
        return self._issue("id", CALL, text, None)

    def _issue(self, domain: str, label: str, canonical: str, restored: str | None) -> str:
        name = (domain, label, canonical)
        if known := self._by_value.get(name):
            return known
        tags = (self._tag(f"{domain}:{label}:{again}:{canonical}") for again in count())
        fit = (f"{label}_{tag}" for tag in tags if not tag.isalpha())
        pseudonym = next(one for one in fit if one not in self)
        self._by_value[name] = pseudonym
        if restored is None:
            self._kept.add(pseudonym)
        else:
            self._values[pseudonym] = restored
        return pseudonym

    def _tag(self, text: str) -> str:
        digest = hmac.digest(self._key, text.encode(errors="surrogatepass"), "sha256")
        number = int.from_bytes(digest[:5])
        return "".join(ALPHABET[number >> shift & 31] for shift in range(35, -1, -5))


def _canonical(value: str, entity: EntityType) -> str:
    """Return the canonical form of values of that type that mean the same."""
    if entity not in _WORDS:
        return value
    plain = unicodedata.normalize("NFKC", value).casefold()
    return " ".join("".join(one for one in plain if unicodedata.category(one) != "Cf").split())
