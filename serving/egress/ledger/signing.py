"""The Ed25519 key (RFC 8032) that signs checkpoints and receipts, and public keys that check them.

The private key is one file of PEM (PKCS 8), mode 0600, made once. A key's id is its JWK thumbprint
(RFC 7638), so that it says nothing but which key it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import jwt
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from serving.config import Settings
from serving.egress.ledger.errors import PublicKeyInvalid, SigningKeyUnsafe
from serving.storage.private_file import PrivateFileUnsafe, put_private, read_private

ALGORITHM = "EdDSA"
"""Of receipts, as JOSE calls it (RFC 8037)."""

_JWS = jwt.PyJWS(algorithms=[ALGORITHM])
_FILE = "signing-key.pem"
_MAX_FILE_BYTES = 64 * 1024
_PUBLIC_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


def key_file(settings: Settings) -> Path:
    """Return the file of the private key: as configured, or else in the state directory."""
    return settings.ledger.signing_key or settings.home / _FILE


def key_id(key: Ed25519PublicKey) -> str:
    """The key's JWK thumbprint: 43 characters of unpadded base64url."""
    x = base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    return base64url(hashlib.sha256(jwk.encode()).digest())


def base64url(data: bytes) -> str:
    """Encode as base64url without padding, as in JOSE (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class PublicKeys:
    """Public keys that are trusted. After a change of the key there are several.

    Attributes:
        by_id: The keys by their ids.
    """

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self.by_id: Mapping[str, Ed25519PublicKey] = {key_id(key): key for key in keys}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read all public keys of a PEM file.

        Raises:
            PublicKeyInvalid: it cannot be read, or holds something else.
        """
        try:
            text = path.read_bytes()[:_MAX_FILE_BYTES]
        except OSError as error:
            raise PublicKeyInvalid(f"cannot read {str(path)!r}: {error.strerror}") from error
        keys = [_public_key(block) for block in _PUBLIC_PEM.findall(text)]
        found = [key for key in keys if key is not None]
        if not found or len(found) < len(keys):
            raise PublicKeyInvalid(
                f"{str(path)!r} holds no Ed25519 public key in PEM; "
                "`ringfence receipt public-key` prints it"
            )
        return cls(found)

    def __contains__(self, which: object) -> bool:
        return which in self.by_id

    def signed(self, which: str, *, message: bytes, signature: bytes) -> bool:
        """Whether the key of that id is one of these and signed the message."""
        key = self.by_id.get(which)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """Signs with the private key, which is loaded once and stays inside.

    Attributes:
        key_id: which key it is.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the key in `path`.

        Raises:
            SigningKeyUnsafe: others may read the file, or it holds no Ed25519 key.
            OSError: the file cannot be read, or made.
        """
        return cls(_load(path))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Load the key in `path`, or make a new one there.

        Processes that race get the same key, and a crash never leaves half of one. Blocks. Raises
        as above.
        """
        with suppress(FileNotFoundError):
            return cls.load(path)
        key = Ed25519PrivateKey.generate()
        put_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cls.load(path)

    def sign(self, message: bytes) -> bytes:
        """64 bytes. Every use has messages that begin like no other's."""
        return self._key.sign(message)

    def jws(self, payload: bytes, *, typ: str) -> str:
        """The payload as a compact JWS (RFC 7515) of that type."""
        header = {"kid": self.key_id, "typ": typ}
        return _JWS.encode(payload, self._key, algorithm=ALGORITHM, headers=header)

    @property
    def public_keys(self) -> PublicKeys:
        """The public half, to check with."""
        return PublicKeys([self._key.public_key()])

    @property
    def public_pem(self) -> str:
        """The public half, to hand out."""
        spki = PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(Encoding.PEM, spki).decode("ascii")


def _public_key(pem: bytes) -> Ed25519PublicKey | None:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PublicKey) else None


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except PrivateFileUnsafe as error:
        raise SigningKeyUnsafe(str(error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # Their messages may quote the file.
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyUnsafe(
            f"{str(path)!r} must hold an Ed25519 private key in PEM, without a password; "
            "`openssl genpkey -algorithm ed25519` makes one"
        )
    return key
