"""The hash chain: entries in order, each of which holds the hash of the one before it.

Canonical form, version 1. The hash of an entry is SHA-256, in lower-case hex, over one byte 0x01
and these fields in this order, each as its length in bytes (four bytes, the highest first) and its
text in UTF-8:

    sequence     decimal, from 1
    previous     hash of the entry before; 64 zeros for the first
    kind         `departure` or `arrival`
    at           ISO 8601 in UTC with microseconds, such as 2026-11-25T02:07:28.000001+00:00
    request_id
    attempt_id
    tenant
    departure    decimal sequence of the departure that an arrival belongs to; empty otherwise
    facts        a JSON object: sorted keys, no white space, whole numbers only

Facts are hashed as the text that is stored, so no reader has to make the same JSON again.

Knows nothing of databases, nor of what the facts say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import orjson

from serving.egress.ledger.errors import LedgerFileInvalid

Kind = Literal["departure", "arrival"]

VERSION = b"\x01"


class Head(NamedTuple):
    """The last entry of a chain: its number and its hash."""

    sequence: int
    hash: str


ORIGIN = Head(0, "0" * 64)
"""The head of an empty chain."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger, of the form above. `facts` is JSON; `hash` as it was stored."""

    sequence: int
    previous: str
    kind: str
    at: str
    request_id: str
    attempt_id: str
    tenant: str
    departure: int | None
    facts: str
    hash: str

    @property
    def head(self) -> Head:
        """The chain's head when this is its last entry."""
        return Head(self.sequence, self.hash)

    @property
    def told(self) -> dict[str, Any]:
        """The facts, parsed."""
        facts: dict[str, Any] = orjson.loads(self.facts)
        return facts

    def is_intact(self) -> bool:
        """Whether the stored hash is that of the stored fields. Any value may be stored by now."""
        try:
            return self.hash == entry_hash(self)
        except (AttributeError, UnicodeEncodeError):
            return False

    def as_json(self) -> dict[str, Any]:
        """The entry as it stands in an export."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The entry of an export. Whether it is genuine is for verification to say.

        Raises:
            LedgerFileInvalid: a field is missing, or there is one more.
        """
        try:
            return cls(**told)
        except TypeError:
            raise LedgerFileInvalid("it has not the fields of an entry") from None


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry that has no place in the chain yet."""

    kind: Kind
    at: str
    request_id: str
    attempt_id: str
    tenant: str
    facts: str
    departure: int | None = None

    def following(self, head: Head) -> Entry:
        """The entry of this that comes next after `head`."""
        fields: dict[str, Any] = asdict(self)
        draft = Entry(sequence=head.sequence + 1, previous=head.hash, hash="", **fields)
        return Entry(**asdict(draft) | {"hash": entry_hash(draft)})


def entry_hash(entry: Entry) -> str:
    """The hash of an entry's fields in canonical form; `entry.hash` is not looked at."""
    digest = hashlib.sha256(VERSION)
    departure = "" if entry.departure is None else str(entry.departure)
    texts = (str(entry.sequence), entry.previous, entry.kind, entry.at, entry.request_id)
    for text in (*texts, entry.attempt_id, entry.tenant, departure, entry.facts):
        field = text.encode()
        digest.update(len(field).to_bytes(4, "big") + field)
    return digest.hexdigest()


def facts_json(facts: Mapping[str, Any]) -> str:
    """Facts as the chain holds them.

    Raises:
        TypeError: a value that JSON does not have, or a text that is not Unicode.
    """
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()
