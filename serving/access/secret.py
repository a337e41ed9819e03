"""The server secret, which keys the HMAC of API keys. Losing it makes every key invalid."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from serving.access.errors import SecretUnsafe
from serving.access.key_text import MIN_SECRET_CHARS
from serving.config import AccessSettings
from serving.storage.private_file import PrivateFileUnsafe, put_private, read_private

_SECRET_BYTES = 32
_MAX_CHARS = 4096


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
    put_private(path, f"{secrets.token_hex(_SECRET_BYTES)}\n".encode())
    return _load(path)


def _load(path: Path) -> SecretStr:
    try:
        raw = read_private(path).strip()
    except PrivateFileUnsafe as error:
        raise SecretUnsafe(str(error)) from None
    if not raw.isascii() or not MIN_SECRET_CHARS <= len(raw) <= _MAX_CHARS:
        raise SecretUnsafe(
            f"{str(path)!r} must hold {MIN_SECRET_CHARS} to {_MAX_CHARS} ASCII characters; "
            "`openssl rand -hex 32` makes a good secret"
        )
    return SecretStr(raw.decode("ascii"))
