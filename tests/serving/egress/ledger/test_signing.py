"""The signing key and its public half."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from serving.config import parse
from serving.egress.ledger.errors import PublicKeyInvalid, SigningKeyUnsafe
from serving.egress.ledger.signing import PublicKeys, Signer, key_file, key_id
from tests.serving.egress.ledgers import OTHER_SIGNER, SIGNER


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "signing-key.pem"


def test_key_is_made_once_and_private(path: Path) -> None:
    made = Signer.load_or_create(path)
    assert Signer.load_or_create(path).public_pem == made.public_pem
    assert [(one.name, stat.S_IMODE(one.stat().st_mode)) for one in path.parent.iterdir()] == [
        (path.name, 0o600)
    ]


def test_starts_at_once_get_the_same_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(Signer.load_or_create, [path] * 16))
    assert len({signer.key_id for signer in made}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_key_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    Signer.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(SigningKeyUnsafe, match=f"{mode:04o}"):
        Signer.load_or_create(path)


def test_file_without_an_ed25519_key_is_refused(tmp_path: Path) -> None:
    pkcs8 = PrivateFormat.PKCS8
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, pkcs8, NoEncryption())
    for number, text in enumerate((b"", b"nonsense", pem)):
        path = tmp_path / str(number)
        path.touch(0o600)
        path.write_bytes(text)
        with pytest.raises(SigningKeyUnsafe, match="must hold an Ed25519"):
            Signer.load_or_create(path)


def test_directory_in_the_place_of_the_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises((SigningKeyUnsafe, OSError)):
        Signer.load_or_create(tmp_path)


def test_key_id_is_the_thumbprint_of_rfc_8037() -> None:
    x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    known = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key_id(Ed25519PublicKey.from_public_bytes(x)) == known


def test_signature_is_good_for_its_key_and_message_only() -> None:
    signature = SIGNER.sign(b"message")
    keys, others = SIGNER.public_keys, OTHER_SIGNER.public_keys
    told = [
        keys.signed(SIGNER.key_id, message=b"message", signature=signature),
        keys.signed(SIGNER.key_id, message=b"messagf", signature=signature),
        keys.signed(SIGNER.key_id, message=b"message", signature=signature[:-1]),
        keys.signed(OTHER_SIGNER.key_id, message=b"message", signature=signature),
        others.signed(SIGNER.key_id, message=b"message", signature=signature),
    ]
    assert told == [True, False, False, False, False]


def test_public_keys_of_a_file_are_all_trusted(tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_text("# old and new\n" + SIGNER.public_pem + OTHER_SIGNER.public_pem, "utf-8")
    keys = PublicKeys.read(file)
    assert (SIGNER.key_id in keys, OTHER_SIGNER.key_id in keys) == (True, True)


def test_file_with_anything_else_is_no_public_key(tmp_path: Path) -> None:
    other = X25519PrivateKey.generate().public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    file = tmp_path / "public.pem"
    for text in ("", "nonsense", pem, SIGNER.public_pem + pem):
        file.write_text(text, "ascii")
        with pytest.raises(PublicKeyInvalid, match="public-key"):
            PublicKeys.read(file)
    with pytest.raises(PublicKeyInvalid, match="No such file"):
        PublicKeys.read(tmp_path / "missing")


def test_private_key_is_in_no_text_of_the_signer() -> None:
    raw = Ed25519PrivateKey.generate()
    signer = Signer(raw)
    secret = raw.private_bytes_raw()
    assert secret.hex() not in repr(signer) + str(vars(signer))
    assert "PRIVATE" not in signer.public_pem


def test_key_is_where_the_configuration_says(tmp_path: Path) -> None:
    environ = {"RINGFENCE_HOME": str(tmp_path)}
    given = parse({"ledger": {"signing_key": "/keys/one.pem"}}, environ)
    told = [key_file(settings) for settings in (parse({}, environ), given)]
    assert told == [tmp_path / "signing-key.pem", Path("/keys/one.pem")]
