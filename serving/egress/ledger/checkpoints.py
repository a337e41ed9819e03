"""Checkpoints: signed statements of where the ledger's chain was at a time.

Each is a signed note that any witness of transparency logs can cosign (https://c2sp.org/tlog-witness).
One that somebody else holds, an anchor, pins every entry up to it: whoever can write to the
database and has the signing key too cannot change those unnoticed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from serving.egress.ledger.chain import Entry, Head
from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import (
    Note,
    NoteSignature,
    TreeHead,
    checkpoint_text,
    key_hash,
)
from serving.egress.ledger.signing import PublicKeys, Signer

EVERY_ENTRIES = 64
"""The ledger is signed at least every 64 entries."""

KIND = "checkpoint"
"""Tells a checkpoint from an entry, in a file."""

_CONTEXT = "ringfence egress checkpoint 1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of what the chain's first `sequence` entries were.

    What is signed is the text of a note, which binds the root of the Merkle tree over all of them.
    Checkpoints of earlier versions have none: theirs are five lines without a last line feed,
    `ringfence egress checkpoint 1`, `sequence`, `hash`, `at` and `key_id`.

    Attributes:
        hash: The last entry's in the chain; empty if only the note is known.
        at: When it was signed, ISO 8601 in UTC; a note does not sign it. Empty if it is not known.
        key_id: Which key signed; empty if none of those that were given did.
        signature: Of the Ed25519 key, in hex.
        note_text: The text of the note.
        frontier: What the next checkpoint's tree is made from.
    """

    sequence: int
    hash: str
    at: str
    key_id: str
    signature: str
    note_text: str | None = None
    frontier: str | None = None

    @classmethod
    def sign(cls, head: Head, tree: Frontier, at: str, *, signer: Signer, origin: str) -> Self:
        """The checkpoint of a chain that ends at `head`, with the tree over its entries."""
        text = checkpoint_text(origin, tree)
        signature = signer.sign(text.encode()).hex()
        return cls(*head, at, signer.key_id, signature, text, tree.as_text())

    @classmethod
    def from_note(cls, note: Note, keys: PublicKeys) -> Self:
        """The checkpoint in a note, with the signature that one of these keys seems to have made.

        Raises:
            LedgerFileInvalid: The note is of something else.
        """
        size = TreeHead.of(note.text).size
        for one in note.signatures:
            for key_id, key in keys.by_id.items():
                if one.key_hash == key_hash(one.name, key):
                    return cls(size, "", "", key_id, one.signature.hex(), note.text)
        return cls(size, "", "", "", "", note.text)

    def note(self, keys: PublicKeys) -> Note:
        """The note, for a witness to add its signature.

        Raises:
            LedgerFileInvalid: It is of an earlier version or of another key, and has no note.
        """
        key = keys.by_id.get(self.key_id)
        if self.note_text is None or key is None:
            raise LedgerFileInvalid(
                "the last checkpoint is of an earlier version or another key; the next one will do"
            )
        name = TreeHead.of(self.note_text).origin
        signature = NoteSignature(name, key_hash(name, key), bytes.fromhex(self.signature))
        return Note(self.note_text, (signature,))

    def is_genuine(self, keys: PublicKeys) -> bool:
        """Whether one of these keys signed it, for so many entries."""
        try:
            if self.note_text is not None and TreeHead.of(self.note_text).size != self.sequence:
                return False
            signature = bytes.fromhex(self.signature)
        except (ValueError, TypeError, LedgerFileInvalid):
            return False
        return keys.signed(self.key_id, message=self._message(), signature=signature)

    def fits(self, entry: Entry, tree: Frontier) -> bool:
        """Whether a genuine one signs a chain that ends with this entry and has this tree."""
        if self.note_text is None:
            return self.hash == entry.hash
        return TreeHead.of(self.note_text).root == tree.root and self.hash in ("", entry.hash)

    def _message(self) -> bytes:
        if self.note_text is not None:
            return self.note_text.encode()
        fields = (_CONTEXT, self.sequence, self.hash, self.at, self.key_id)
        return "\n".join(map(str, fields)).encode()

    def as_json(self) -> dict[str, Any]:
        """The checkpoint as it stands in an export and in a file of checkpoints."""
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return {"kind": KIND} | {name: told[name] for name in told if name != "frontier"}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The checkpoint of a file. Whether it is genuine is for verification to say.

        Raises:
            LedgerFileInvalid: A field is missing, or there is one more.
        """
        try:
            found = cls(**{name: value for name, value in told.items() if name != "kind"})
        except TypeError:
            found = None
        if found is None or type(found.sequence) is not int or told.get("kind") != KIND:
            raise LedgerFileInvalid("it is no checkpoint")
        return found


def append_to_file(path: Path, checkpoint: Checkpoint) -> None:
    """Add a line to a file, which is made private when it is new. Blocks until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        line = orjson.dumps(checkpoint.as_json()) + b"\n"
        if os.write(descriptor, line) < len(line):  # One write: processes may share the file.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, keys: PublicKeys) -> list[Checkpoint]:
    """The checkpoints of a file, in its order: lines as they are appended, or one signed note.

    Args:
        path: The file.
        keys: Tell which signature of a note is ours.

    Raises:
        LedgerFileInvalid: It cannot be read, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerFileInvalid(f"cannot read {str(path)!r}: {error.strerror}") from error
    with suppress(UnicodeDecodeError, LedgerFileInvalid):
        return [Checkpoint.from_note(Note.parse(data.decode()), keys)]
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            found.append(Checkpoint.from_json(orjson.loads(line)))
        except (orjson.JSONDecodeError, AttributeError, LedgerFileInvalid):
            raise LedgerFileInvalid(f"{str(path)!r}, line {number}: it is no checkpoint") from None
    return found
