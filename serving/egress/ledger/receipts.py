"""Receipts: a signed statement for each answer, of whether it stayed inside or what left, to whom.

A receipt is a compact JWS (RFC 7515) with EdDSA (RFC 8037), which any JOSE library can verify. It
names no tenant and no key, and holds no text. The HMAC of a body means something only to whoever
has the server's secret; a sequence and a hash pin the entry of the ledger.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.domain.privacy_class import PrivacyClass
from serving.egress.ledger.chain import Entry
from serving.egress.ledger.errors import ReceiptInvalid
from serving.egress.ledger.signing import PublicKeys, Signer, base64url

_TYPE = "ringfence-receipt+jws"
_MAX_CHARS = 64 * 1024
_HEX = "^[0-9a-f]{64}$"


class Departed(BaseModel):
    """What left for an answer: to whom, how much, and its entry in the ledger."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    provider: str
    host: str
    body_bytes: int = Field(ge=0)
    body_hmac: str = Field(pattern=_HEX)
    privacy: PrivacyClass
    entities: dict[str, int]
    policy: str
    sequence: int = Field(ge=1)
    hash: str = Field(pattern=_HEX)

    @classmethod
    def of(cls, departure: Entry) -> Self:
        """Of a departure in the ledger."""
        facts = {name: value for name, value in departure.told.items() if name in cls.model_fields}
        return cls(sequence=departure.sequence, hash=departure.hash, **facts)


class Receipt(BaseModel):
    """What a receipt says.

    Attributes:
        v: the version of this form.
        iat: when it was signed, in seconds since 1970.
        request_id: which answer it is of.
        model: that answered, as the client was told.
        route: `local`, or `overflow:<provider>`. Something may have left for a local answer too,
            when a provider was tried and failed.
        privacy: the class of the request.
        departures: everything that left for it by then, in order.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1] = 1
    iat: int
    request_id: str
    model: str
    route: str
    privacy: PrivacyClass
    departures: tuple[Departed, ...] = ()

    @property
    def stayed_inside(self) -> bool:
        """Whether nothing left."""
        return not self.departures

    @property
    def at(self) -> datetime:
        """When it was signed."""
        return datetime.fromtimestamp(self.iat, UTC)


class Receipts:
    """Issues receipts."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        header = {"alg": "EdDSA", "kid": signer.key_id, "typ": _TYPE}
        self._header = base64url(orjson.dumps(header))

    def issue(self, receipt: Receipt) -> str:
        """The signed receipt: some hundred characters that may stand in a header."""
        message = f"{self._header}.{base64url(receipt.model_dump_json().encode())}"
        return f"{message}.{base64url(self._signer.sign(message.encode('ascii')))}"


def verify(token: str, keys: PublicKeys) -> Receipt:
    """What a receipt says, if one of these keys signed it. Needs no server.

    Raises:
        ReceiptInvalid: anything else, and why.
    """
    parts = token.split(".")
    if len(token) > _MAX_CHARS or len(parts) != 3:
        raise ReceiptInvalid("it is no receipt: not three parts with a dot between them")
    header, payload, signature = (_decoded(part) for part in parts)
    key_id = _key_id(header)
    if key_id not in keys:
        raise ReceiptInvalid("it is signed by another key than those given")
    message = f"{parts[0]}.{parts[1]}".encode("ascii")
    if not keys.signed(key_id, message=message, signature=signature):
        raise ReceiptInvalid("its signature is wrong: it was changed after it was signed")
    try:
        return Receipt.model_validate_json(payload)
    except ValidationError:
        raise ReceiptInvalid("it does not say what a receipt of this version says") from None


def _decoded(part: str) -> bytes:
    """Strictly: one text for each value, so that no second one is as good as what was signed."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64url(data) != part:
        raise ReceiptInvalid("it is no receipt: a part is not base64url")
    return data


def _key_id(header: bytes) -> str:
    """The key that the header names. The algorithm is ours, whatever the header would like."""
    try:
        told: Any = orjson.loads(header)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or set(told) != {"alg", "kid", "typ"} or told["typ"] != _TYPE:
        raise ReceiptInvalid("its header is not a receipt's")
    if told["alg"] != "EdDSA":
        raise ReceiptInvalid("its algorithm is not EdDSA")
    return str(told["kid"])
