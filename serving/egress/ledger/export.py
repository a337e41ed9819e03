"""A ledger as a file: one JSON object a line, checkpoints first and then the entries in order.

Checkpoints come first so that a file that was cut short says so. What is in it can be verified
anywhere, with the public key alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from serving.egress.ledger.chain import Entry
from serving.egress.ledger.checkpoints import KIND, Checkpoint
from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.reading import all_checkpoints, all_entries
from serving.egress.ledger.signing import PublicKeys
from serving.egress.ledger.verification import Report, verify
from serving.storage.database import Database


async def export(database: Database) -> AsyncGenerator[bytes, None]:
    """Lines of the file, each with its line feed.

    Raises:
        DatabaseUnavailable: the ledger cannot be read now.
    """
    for checkpoint in await all_checkpoints(database):  # First: entries may be added meanwhile.
        yield _line(checkpoint.as_json())
    async for entry in all_entries(database):
        yield _line(entry.as_json())


def verify_file(path: Path, keys: PublicKeys, *, anchors: Iterable[Checkpoint] = ()) -> Report:
    """Verify an exported ledger.

    Raises:
        LedgerFileInvalid: the file cannot be read, or a line is neither entry nor checkpoint.
    """
    checkpoints = [one for one in _read(path) if isinstance(one, Checkpoint)]
    entries = (one for one in _read(path) if isinstance(one, Entry))
    return verify(entries, checkpoints, keys, anchors=anchors)


def _read(path: Path) -> Iterator[Entry | Checkpoint]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _parsed(line, f"{str(path)!r}, line {number}")
    except OSError as error:
        raise LedgerFileInvalid(f"cannot read {str(path)!r}: {error.strerror}") from error


def _parsed(line: bytes, where: str) -> Entry | Checkpoint:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise LedgerFileInvalid(f"{where}: it is no JSON") from None
    if not isinstance(told, dict):
        raise LedgerFileInvalid(f"{where}: it is no object")
    try:
        return Checkpoint.from_json(told) if told.get("kind") == KIND else Entry.from_json(told)
    except LedgerFileInvalid as error:
        raise LedgerFileInvalid(f"{where}: {error}") from None


def _line(told: dict[str, Any]) -> bytes:
    # What was put into the database by hand may have types that JSON has not.
    return orjson.dumps(told, default=repr, option=orjson.OPT_APPEND_NEWLINE)
