"""The server secret, which keys the HMAC of API keys. Losing it makes every key invalid."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from serving.access.errors import SecretUnsafe
from serving.access.key_text import MIN_SECRET_CHARS
from serving.config import AccessSettings

_SECRET_BYTES = 32
_MAX_FILE_BYTES = 4096


def server_secret(access: AccessSettings) -> SecretStr:
    """The configured secret, else the one kept in the state directory. Raises as below."""
    return load_or_create_secret(access.secret_file) if access.secret is None else access.secret


def load_or_create_secret(path: Path) -> SecretStr:
    """The secret in `path`; without that file, a new one of 32 random bytes as hex, mode 0600.

    Processes that race get the same secret, and a crash never leaves half of one.

    Raises:
        SecretUnsafe: others may read or replace the file, it is no plain file, or it is too short.
        OSError: the file cannot be read or made.
    """
    with suppress(FileNotFoundError):
        return _load(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, secrets.token_hex(_SECRET_BYTES))
        with suppress(FileExistsError):  # Another process was first: its secret counts.
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return _load(path)


def _load(path: Path) -> SecretStr:
    # Without O_NONBLOCK a pipe in the file's place would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretUnsafe(f"{str(path)!r} is not a plain file; remove it")
        if status.st_uid not in {os.geteuid(), 0}:
            raise SecretUnsafe(f"{str(path)!r} belongs to another user; chown it")
        if status.st_mode & 0o077:
            raise SecretUnsafe(
                f"{str(path)!r} has mode {stat.S_IMODE(status.st_mode):04o}, so others may have "
                "read it; put a new secret there (all keys end), or run chmod 600 on it"
            )
        raw = file.read(_MAX_FILE_BYTES + 1).strip()
    if not raw.isascii() or not MIN_SECRET_CHARS <= len(raw) <= _MAX_FILE_BYTES:
        raise SecretUnsafe(
            f"{str(path)!r} must hold {MIN_SECRET_CHARS} to {_MAX_FILE_BYTES} ASCII characters; "
            "`openssl rand -hex 32` makes a good secret"
        )
    return SecretStr(raw.decode("ascii"))


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
