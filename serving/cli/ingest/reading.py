"""Reading of files that may change meanwhile: the uploaded bytes have the stated hash."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serving.cli.ingest.walk import NOT_A_FILE, reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES = 1024 * 1024


class Unreadable(Exception):
    """A file cannot be read; the message is the reason."""


class Reading(io.RawIOBase):
    """The bytes that a file had when it was opened, to be read more than once.

    What is appended later is not read. Methods raise `Unreadable` where it has become another.

    Args:
        opened: the file, unbuffered.
    """

    def __init__(self, opened: io.FileIO) -> None:
        self._opened = opened
        self._size = os.fstat(opened.fileno()).st_size
        self._at = 0
        self._digest = hashlib.sha256()

    def sha256(self) -> str:
        """Read all of it. Returns its hash, in hexadecimal."""
        self.seek(0)
        while self.read(_PIECE_BYTES):
            pass
        return self._digest.hexdigest()

    def check(self, sha256: str) -> None:
        """See that what was read since the beginning was sought has this hash."""
        if self._digest.hexdigest() != sha256:
            raise Unreadable("it changed while it was read; run this again")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some of the rest into a buffer."""
        wanted = memoryview(buffer)[: self._size - self._at]
        count = self._opened.readinto(wanted) or 0
        if wanted and not count:
            raise Unreadable("it became shorter while it was read")
        self._digest.update(wanted[:count])
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; at the beginning, the hash begins anew."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset != self._at:
            self._at = self._opened.seek(base + offset)
        if self._at == 0:
            self._digest = hashlib.sha256()
        return self._at


@contextmanager
def reading(file: Path) -> Iterator[Reading]:
    """Open a regular file for the block. Waits for nothing, and follows no link.

    Raises:
        Unreadable: it cannot be opened or read; inside the block too.
    """
    try:
        # A file that has become a FIFO would keep us waiting for its writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with io.FileIO(descriptor) as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable(NOT_A_FILE)
            yield Reading(opened)
    except OSError as error:
        raise Unreadable(reason(error)) from None
