"""Checkpoints: signed statements of where the ledger's chain was at a time.

One that somebody else holds, an anchor, pins every entry up to it: whoever can write to the
database and has the signing key too cannot change those unnoticed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from serving.egress.ledger.chain import Head
from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.signing import PublicKeys, Signer

EVERY_ENTRIES = 64
"""The ledger is signed at least every 64 entries."""

KIND = "checkpoint"
"""Tells a checkpoint from an entry, in a file."""

_CONTEXT = "ringfence egress checkpoint 1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """That the chain had `sequence` entries, the last of them with this hash, at that time.

    Entries are numbered from 1 without gaps, so the number of the last one is their count. What is
    signed are five lines without a last line feed: `ringfence egress checkpoint 1`, `sequence`,
    `hash`, `at` and `key_id`.

    Attributes:
        at: ISO 8601 in UTC.
        key_id: of the key that signed.
        signature: hex.
    """

    sequence: int
    hash: str
    at: str
    key_id: str
    signature: str

    @classmethod
    def sign(cls, head: Head, at: str, signer: Signer) -> Self:
        """The checkpoint of a chain that ends at `head`."""
        draft = cls(head.sequence, head.hash, at, signer.key_id, "")
        return cls(*head, at, signer.key_id, signer.sign(draft._message()).hex())

    def is_genuine(self, keys: PublicKeys) -> bool:
        """Whether one of these keys signed it."""
        try:
            signature = bytes.fromhex(self.signature)
        except (ValueError, TypeError):
            return False
        return keys.signed(self.key_id, message=self._message(), signature=signature)

    def _message(self) -> bytes:
        fields = (_CONTEXT, self.sequence, self.hash, self.at, self.key_id)
        return "\n".join(map(str, fields)).encode()

    def as_json(self) -> dict[str, Any]:
        """As an export and a file of checkpoints have it."""
        return {"kind": KIND} | asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The checkpoint of a file. Whether it is genuine is for verification to say.

        Raises:
            LedgerFileInvalid: a field is missing, or there is one more.
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


def read_file(path: Path) -> list[Checkpoint]:
    """The checkpoints of a file, in its order.

    Raises:
        LedgerFileInvalid: it cannot be read, or a line is no checkpoint.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LedgerFileInvalid(f"cannot read {str(path)!r}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Checkpoint.from_json(orjson.loads(line)))
        except (orjson.JSONDecodeError, AttributeError, LedgerFileInvalid):
            raise LedgerFileInvalid(f"{str(path)!r}, line {number}: it is no checkpoint") from None
    return found
