"""Signed notes: vectors of others, and ours verified by what the specification alone says."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import (
    ORIGIN_NAME,
    Note,
    NoteSignature,
    TreeHead,
    add_checkpoint_request,
    checkpoint_text,
    key_hash,
    verifier_key,
)
from tests.serving.egress.ledgers import SIGNER, chain, signed

# The examples of c2sp.org/signed-note and of golang.org/x/mod/sumdb/note, and Go's checksum log.
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2O"
    "NncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngot"
    "pRZb6KE6RyyBwJnAM=\n"
)
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
KEYS = SIGNER.public_keys
NOTE = str(signed(chain(5)[-1]).note(KEYS))


def public_key(vkey: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(vkey.split("+", 2)[2])[1:])


def verified(note: str, vkey: str) -> str:
    """The text of a note, by the specification, with nothing of ours."""
    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded)
    assert key[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] == key_id
    text, _, lines = note.rpartition("\n\n")
    for line in lines.splitlines():
        dash, signer, signature = line.split(" ")
        raw = base64.b64decode(signature)
        if (dash, signer, raw[:4].hex()) == ("\u2014", name, key_id):
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], f"{text}\n".encode())
            return text + "\n"
    raise AssertionError("no signature of that key")


@pytest.mark.parametrize("vkey", [FOO, NEUMANN, SUMDB])
def test_key_has_the_hash_that_others_give_it(vkey: str) -> None:
    assert verifier_key(vkey.split("+", maxsplit=1)[0], public_key(vkey)) == vkey


@pytest.mark.parametrize(("note", "vkey"), [(FOO_NOTE, FOO), (NEUMANN_NOTE, NEUMANN)])
def test_note_of_others_is_read_and_written_as_it_is(note: str, vkey: str) -> None:
    parsed = Note.parse(note)
    (line,) = parsed.signatures
    assert (str(parsed), parsed.text) == (note, verified(note, vkey))
    assert line.key_hash == key_hash(line.name, public_key(vkey))
    public_key(vkey).verify(line.signature, parsed.text.encode())


def test_our_note_is_verified_by_what_the_specification_says() -> None:
    (key,) = KEYS.by_id.values()
    vkey = verifier_key(ORIGIN_NAME, key)
    text = verified(NOTE, vkey)
    origin, size, root, rest = text.split("\n")
    leaves = [bytes.fromhex(entry.hash) for entry in chain(5)]
    assert (origin, size, rest) == (ORIGIN_NAME, "5", "")
    assert base64.b64decode(root) == Frontier().with_leaves(leaves).root
    with pytest.raises(InvalidSignature):
        verified(NOTE.replace("\n5\n", "\n6\n"), vkey)


def test_request_to_a_witness_has_the_form_of_its_protocol() -> None:
    leaves = [bytes.fromhex(entry.hash) for entry in chain(5)]
    told = add_checkpoint_request(NOTE, leaves, 3)
    head, proof = told.removesuffix(f"\n\n{NOTE}").split("\n", 1)
    assert head == "old 3"
    assert [len(base64.b64decode(line)) for line in proof.split("\n")] == [32] * 4
    assert add_checkpoint_request(NOTE, leaves, 0) == f"old 0\n\n{NOTE}"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        NOTE[:-1],
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\u2014 r", "\u2014  r"),
        NOTE.replace("=\n", "\n"),
        NOTE.replace("ledger\n", "ledger\r\n"),
        NOTE + "\u2014 short AAAA\n",
        NOTE + "\n",
        "A" * 600_000 + NOTE,
    ],
)
def test_text_that_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(LedgerFileInvalid):
        Note.parse(note)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_is_a_note_or_refused(before: str, after: str) -> None:
    try:
        parsed = Note.parse(f"{before}\n\n\u2014 {after}\n")
    except LedgerFileInvalid:
        return
    assert str(parsed) == f"{before}\n\n\u2014 {after}\n"


ROOT = base64.b64encode(b"r" * 32).decode("ascii")


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"o\n5\n{ROOT}",
        f"\n5\n{ROOT}\n",
        f"o\n05\n{ROOT}\n",
        f"o\n-5\n{ROOT}\n",
        f"o\n5\n{ROOT[:-4]}\n",
        f"o\n5\n{ROOT}\nmore\n",
        "ringfence egress checkpoint 1\n5\n" + "ab" * 32 + "\n2026-03-01T12:00:00\nkey",
    ],
)
def test_text_of_another_form_is_no_tree_head(text: str) -> None:
    with pytest.raises(LedgerFileInvalid):
        TreeHead.of(text)


def test_tree_head_says_what_was_signed() -> None:
    tree = Frontier().with_leaves([b"a", b"b"])
    assert TreeHead.of(checkpoint_text("example.com/log", tree)) == TreeHead(
        "example.com/log", 2, tree.root
    )


def test_signature_line_is_name_and_base64() -> None:
    assert str(NoteSignature("n", b"abcd", b"e")) == "\u2014 n YWJjZGU=\n"
