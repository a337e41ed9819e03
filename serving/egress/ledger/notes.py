"""Signed notes (https://c2sp.org/signed-note), and checkpoints in them.

The text of a checkpoint (https://c2sp.org/tlog-checkpoint) has three lines: the log's origin, the
number of its entries and the root of the Merkle tree over them. Knows neither databases nor files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.merkle import Frontier, consistency_proof

ORIGIN_NAME = "ringfence/egress-ledger"
"""The origin of a ledger that was given no name of its own."""

_ED25519 = b"\x01"
_MAX_CHARS = 512 * 1024
_TEXT = re.compile(r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[^\n]+)\n")
_SIGNATURE = re.compile(r"\u2014 (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/]+={0,2})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


def key_hash(name: str, key: Ed25519PublicKey) -> bytes:
    """The four bytes that, with its name, tell a key from others."""
    told = name.encode() + b"\n" + _ED25519 + key.public_bytes_raw()
    return hashlib.sha256(told).digest()[:4]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """The public key as a witness's configuration takes it: name, hash and key."""
    encoded = base64.b64encode(_ED25519 + key.public_bytes_raw()).decode("ascii")
    return f"{name}+{key_hash(name, key).hex()}+{encoded}"


def checkpoint_text(origin: str, tree: Frontier) -> str:
    """What is signed of a tree."""
    return f"{origin}\n{tree.size}\n{base64.b64encode(tree.root).decode('ascii')}\n"


def add_checkpoint_request(note: str, leaves: Sequence[bytes], old_size: int) -> str:
    """The body of a witness's `add-checkpoint` (https://c2sp.org/tlog-witness).

    Args:
        note: The checkpoint.
        leaves: All leaves of its tree.
        old_size: Of the last checkpoint that the witness has cosigned; 0 for the first.

    Raises:
        ValueError: The witness has more entries than there are.
    """
    proof = [base64.b64encode(one).decode("ascii") for one in consistency_proof(leaves, old_size)]
    return "\n".join((f"old {old_size}", *proof, "", note))


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What the text of a checkpoint says."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def of(cls, text: str) -> Self:
        """The tree head in a text.

        Raises:
            LedgerFileInvalid: It is no checkpoint of ours: one with extension lines is none either.
        """
        found = _TEXT.fullmatch(text)
        root = _decoded(found["root"]) if found else b""
        if found is None or len(root) != hashlib.sha256().digest_size:
            raise LedgerFileInvalid("it is no checkpoint")
        return cls(found["origin"], int(found["size"]), root)


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """A line under a note: whose it says to be, and the signature."""

    name: str
    key_hash: bytes
    signature: bytes

    def __str__(self) -> str:
        encoded = base64.b64encode(self.key_hash + self.signature).decode("ascii")
        return f"\u2014 {self.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its line feed at the end, and signatures that are not verified yet."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        return "\n".join((self.text, "".join(map(str, self.signatures))))

    @classmethod
    def parse(cls, note: str) -> Self:
        """The parts of a note.

        Raises:
            LedgerFileInvalid: It is none.
        """
        text, gap, lines = note.rpartition("\n\n")
        found = [_SIGNATURE.fullmatch(line) for line in lines[:-1].split("\n")]
        sizes_fit = len(note) <= _MAX_CHARS and bool(gap) and note.endswith("\n")
        if not sizes_fit or _CONTROL.search(note) or None in found:
            raise LedgerFileInvalid("it is no signed note")
        signatures = [(one["name"], _decoded(one["signature"])) for one in found if one]
        if any(len(signature) <= 4 for _, signature in signatures):
            raise LedgerFileInvalid("it is no signed note")
        return cls(
            text + "\n", tuple(NoteSignature(name, raw[:4], raw[4:]) for name, raw in signatures)
        )


def _decoded(text: str) -> bytes:
    """Bytes of standard base64 in its one form; none of another."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode("ascii") == text else b""
