"""Small private files, such as a secret or a key. Made once, even if several processes race."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 64 * 1024


class PrivateFileUnsafe(Exception):
    """Others may read or replace the file, or it is no plain file; the message says what to do."""


def read_private(path: Path) -> bytes:
    """Return the file's contents, up to one byte more than `MAX_BYTES`.

    Raises:
        PrivateFileUnsafe: it is not ours alone.
        OSError: it cannot be read.
    """
    # Without O_NONBLOCK a pipe in the file's place would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PrivateFileUnsafe(f"{str(path)!r} is not a plain file; remove it")
        if status.st_uid not in {os.geteuid(), 0}:
            raise PrivateFileUnsafe(f"{str(path)!r} belongs to another user; chown it")
        if status.st_mode & 0o077:
            raise PrivateFileUnsafe(
                f"{str(path)!r} has mode {stat.S_IMODE(status.st_mode):04o}, so others may have "
                "read it; put a new one there, or run chmod 600 on it"
            )
        return file.read(MAX_BYTES + 1)


def put_private(path: Path, content: bytes) -> None:
    """Put the file there with mode 0600, unless another process was first: then that counts.

    A crash never leaves half of one. Raises `OSError`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, content)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
