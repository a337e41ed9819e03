"""Receipts: a signed statement for each answer, of whether it stayed inside or what left, to whom.

A receipt is a compact JWS (RFC 7515) with EdDSA (RFC 8037), which any JOSE library can verify. It
names no tenant and no key, and holds no text. The HMAC of a body means something only to whoever
has the server's secret; a sequence and a hash pin the entry of the ledger.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, Self

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.domain.privacy_class import PrivacyClass
from serving.egress.ledger.chain import Entry
from serving.egress.ledger.errors import ReceiptInvalid
from serving.egress.ledger.signing import ALGORITHM, PublicKeys, Signer

_TYPE = "ringfence-receipt+jws"
_MAX_CHARS = 64 * 1024
_HEX = "^[0-9a-f]{64}$"
_COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_JWS = jwt.PyJWS(algorithms=[ALGORITHM])


class Departed(BaseModel):
    """A departure for an answer: its provider, its bytes, and its entry in the ledger."""

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
        """Build it from a departure in the ledger."""
        facts = {name: value for name, value in departure.told.items() if name in cls.model_fields}
        return cls(sequence=departure.sequence, hash=departure.hash, **facts)


class Receipt(BaseModel):
    """The statement of a receipt.

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
        """The time of its signature."""
        return datetime.fromtimestamp(self.iat, UTC)


class Receipts:
    """Issues receipts."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def issue(self, receipt: Receipt) -> str:
        """The signed receipt: some hundred characters that may stand in a header."""
        return self._signer.jws(receipt.model_dump_json().encode(), typ=_TYPE)


def verify(token: str, keys: PublicKeys) -> Receipt:
    """Return a receipt's statement if one of these keys signed it. Needs no server.

    Raises:
        ReceiptInvalid: anything else, and why.
    """
    # PyJWT also takes padding, and would decode a token of any length.
    if len(token) > _MAX_CHARS or not _COMPACT.fullmatch(token):
        raise ReceiptInvalid("it is no receipt: not three parts of base64url with dots between")
    try:
        header = jwt.get_unverified_header(token)
        if set(header) != {"alg", "kid", "typ"} or header["typ"] != _TYPE:
            raise ReceiptInvalid("its header is not a receipt's")
        key = keys.by_id.get(header["kid"])
        if key is None:
            raise ReceiptInvalid("it is signed by another key than those given")
        return Receipt.model_validate_json(_JWS.decode(token, key, algorithms=[ALGORITHM]))
    except jwt.InvalidAlgorithmError:
        raise ReceiptInvalid(f"its algorithm is not {ALGORITHM}") from None
    except jwt.InvalidSignatureError:
        raise ReceiptInvalid("its signature is wrong: it was changed after it was signed") from None
    except jwt.InvalidTokenError:
        raise ReceiptInvalid(
            "it is no receipt: its header or a part of it cannot be read"
        ) from None
    except ValidationError:
        raise ReceiptInvalid("it does not say what a receipt of this version says") from None
