"""Receipts: verification returns what was signed, or fails."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import jwt
import orjson
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.egress.ledger.chain import ORIGIN, facts_json
from serving.egress.ledger.errors import ReceiptInvalid
from serving.egress.ledger.receipts import Departed, Receipt, Receipts, verify
from serving.egress.ledger.signing import PublicKeys, Signer, base64url
from tests.serving.egress.ledgers import OTHER_SIGNER, SIGNER, draft

DEPARTURE = draft(
    tenant="acme-tenant",
    facts=facts_json(
        {
            "provider": "somebody",
            "host": "api.somebody.example",
            "path": "/v1/chat/completions",
            "model": "large",
            "key_id": "the-key",
            "privacy": "scrubbed",
            "policy": "p1",
            "entities": {"PERSON": 2},
            "body_hmac": "ab" * 32,
            "body_bytes": 1234,
        }
    ),
).following(ORIGIN)
INSIDE = Receipt(iat=1_800_000_000, request_id="req_1", model="m", route="local", privacy="open")
OUTSIDE = Receipt(
    iat=1_800_000_000,
    request_id="req_2",
    model="m",
    route="overflow:somebody",
    privacy="scrubbed",
    departures=(Departed.of(DEPARTURE),),
)
KEYS = SIGNER.public_keys
TOKEN = Receipts(SIGNER).issue(OUTSIDE)

ISSUED_BY_HAND = (
    "eyJhbGciOiJFZERTQSIsImtpZCI6IjFJRzJ0TUg3SjJ3Ykpabk9mOExKelFpdEtmN0xNdm9BRWxzdURNVk01NFki"
    "LCJ0eXAiOiJyaW5nZmVuY2UtcmVjZWlwdCtqd3MifQ.eyJ2IjoxLCJpYXQiOjE4MDAwMDAwMDAsInJlcXVlc3Rfa"
    "WQiOiJyZXFfMiIsIm1vZGVsIjoibSIsInJvdXRlIjoib3ZlcmZsb3c6c29tZWJvZHkiLCJwcml2YWN5Ijoic2Nyd"
    "WJiZWQiLCJkZXBhcnR1cmVzIjpbeyJwcm92aWRlciI6InNvbWVib2R5IiwiaG9zdCI6ImFwaS5zb21lYm9keS5le"
    "GFtcGxlIiwiYm9keV9ieXRlcyI6MTIzNCwiYm9keV9obWFjIjoiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhY"
    "mFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYiIsInByaXZhY3kiOiJzY3J1YmJlZCIsImVudGl0a"
    "WVzIjp7IlBFUlNPTiI6Mn0sInBvbGljeSI6InAxIiwic2VxdWVuY2UiOjcsImhhc2giOiJjZGNkY2RjZGNkY2RjZ"
    "GNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZGNkY2RjZGNkIn1dfQ.OXdWcQMHITeRd_"
    "-GGpgd0DDfjC_5_NhL4Hckwl61g-2HF6175HJ4-ZlDVAXvzSJeNL7DjG_AiYb4PzSO6XD8BQ"
)
"""A receipt as it was issued before PyJWT issued them."""


def signed(header: Any, payload: Any, signer: Signer = SIGNER) -> str:
    """Build a token by someone who has the key but deviates from the format."""
    message = ".".join(base64url(orjson.dumps(part)) for part in (header, payload))
    return f"{message}.{base64url(signer.sign(message.encode()))}"


def header(**fields: Any) -> dict[str, Any]:
    return {"alg": "EdDSA", "kid": SIGNER.key_id, "typ": "ringfence-receipt+jws"} | fields


def payload(receipt: Receipt = INSIDE, **fields: Any) -> dict[str, Any]:
    return receipt.model_dump(mode="json") | fields


@pytest.mark.parametrize("receipt", [INSIDE, OUTSIDE])
def test_receipt_says_what_was_signed(receipt: Receipt) -> None:
    assert verify(Receipts(SIGNER).issue(receipt), KEYS) == receipt


def test_receipt_issued_before_is_still_verified() -> None:
    told = verify(ISSUED_BY_HAND, KEYS)
    assert (told.request_id, told.departures[0].sequence) == ("req_2", 7)
    assert Receipts(SIGNER).issue(told) == ISSUED_BY_HAND


def test_receipt_says_whether_anything_left() -> None:
    assert (INSIDE.stayed_inside, OUTSIDE.stayed_inside) == (True, False)


def test_departure_pins_its_entry_in_the_ledger() -> None:
    (told,) = verify(TOKEN, KEYS).departures
    assert (told.sequence, told.hash) == DEPARTURE.head
    assert (told.provider, told.body_bytes, told.entities) == ("somebody", 1234, {"PERSON": 2})


def test_receipt_names_no_tenant_and_no_key() -> None:
    text = base64.urlsafe_b64decode(TOKEN.split(".")[1] + "==")
    assert b"somebody" in text
    assert b"acme-tenant" not in text
    assert b"the-key" not in text


def test_receipt_is_verified_by_a_jose_library() -> None:
    public = SIGNER.public_pem
    told = jwt.decode(TOKEN, public, algorithms=["EdDSA"], options={"verify_iat": False})
    assert told == payload(OUTSIDE)
    assert jwt.get_unverified_header(TOKEN) == header()


def test_receipt_is_verified_without_any_of_our_code() -> None:
    message, _, signature = TOKEN.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    (public,) = _keys(SIGNER)
    public.verify(raw, message.encode())
    with pytest.raises(InvalidSignature):
        public.verify(raw, message.encode() + b"A")


@settings(deadline=None)
@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_receipt_with_any_other_character_is_refused(at: int, character: str) -> None:
    changed = TOKEN[:at] + character + TOKEN[at + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(ReceiptInvalid):
        verify(changed, KEYS)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_text_that_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(text, KEYS)


FORGED: dict[str, str] = {
    "of another key": signed(header(kid=OTHER_SIGNER.key_id), payload(), OTHER_SIGNER),
    "another's under our id": signed(header(), payload(), OTHER_SIGNER),
    "our key under another id": signed(header(kid=OTHER_SIGNER.key_id), payload()),
    "without algorithm": signed(header(alg="none"), payload()),
    "of another algorithm": signed(header(alg="HS256"), payload()),
    "of Ed448": signed(header(alg="Ed448"), payload()),
    "of another type": signed(header(typ="JWT"), payload()),
    "with a critical header": signed(header(crit=["b64"], b64=False), payload()),
    "with a key of its own": signed(header(jwk={"kty": "OKP"}), payload()),
    "with no header": signed([], payload()),
    "of another version": signed(header(), payload(v=2)),
    "with more fields": signed(header(), payload(more=1)),
    "with a number as text": signed(header(), payload(iat="1800000000")),
    "of an unknown class": signed(header(), payload(privacy="public")),
    "that is no object": signed(header(), [payload()]),
    "unsigned": TOKEN.rpartition(".")[0] + ".",
    "in four parts": TOKEN + ".x",
    "with padding": TOKEN + "==",
    "with a line feed": TOKEN + "\n",
    "as long as a book": TOKEN + "A" * 100_000,
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
def test_receipt_of_another_form_is_refused(token: str) -> None:
    with pytest.raises(ReceiptInvalid):
        verify(token, KEYS)


def test_public_key_is_no_secret_that_signs() -> None:
    first, second, _ = signed(header(alg="HS256"), payload()).split(".")
    message = f"{first}.{second}".encode()
    mac = hmac.digest(SIGNER.public_pem.encode(), message, hashlib.sha256)
    with pytest.raises(ReceiptInvalid, match="algorithm"):
        verify(f"{message.decode()}.{base64url(mac)}", KEYS)


def test_receipt_of_an_old_key_is_good_while_that_is_trusted() -> None:
    keys = PublicKeys([*_keys(OTHER_SIGNER), *_keys(SIGNER)])
    tokens = [Receipts(signer).issue(INSIDE) for signer in (SIGNER, OTHER_SIGNER)]
    assert [verify(token, keys) for token in tokens] == [INSIDE, INSIDE]


def _keys(signer: Signer) -> list[Any]:
    return [load_pem_public_key(signer.public_pem.encode())]


def test_other_signatures_of_the_key_are_no_receipts() -> None:
    message = b"ringfence egress checkpoint 1\n1\n"
    token = f"{base64url(message)}.{base64url(b'{}')}.{base64url(SIGNER.sign(message))}"
    with pytest.raises(ReceiptInvalid):
        verify(token, KEYS)
