"""The keys that the first start makes, so that a newcomer can call at once. Kept in 0600 files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.access.tenants import DEFAULT_TENANT
from serving.config import Settings
from serving.domain.principal import Role
from serving.storage import migrate
from serving.storage.database import Database

_INFERENCE = "first-key"
_ADMIN = "admin-key"


def first_key(settings: Settings) -> str | None:
    """The key in `<home>/first-key`; made when the file is missing, and so is the admin's.

    Returns:
        None when RINGFENCE_API_KEY gives a key: that one is used then, and not shown.
    """
    _key(settings, _ADMIN, role="admin", name="admin")
    if settings.api_key is not None:
        return None
    return _key(settings, _INFERENCE, role="inference", name="first")


def kept_key(settings: Settings) -> str | None:
    """The key in `<home>/first-key`; None when no start has made it."""
    return _kept(settings.home / _INFERENCE)


def kept_admin_key(settings: Settings) -> str | None:
    """The key in `<home>/admin-key`; None when no start has made it."""
    return _kept(settings.home / _ADMIN)


def _key(settings: Settings, file: str, *, role: Role, name: str) -> str:
    path = settings.home / file
    if kept := _kept(path):
        return kept
    key = asyncio.run(_create(settings, role, f"{name}-{os.urandom(3).hex()}"))
    try:
        _write_private(path, key)
    except FileExistsError:  # Another start was faster; its key is the one.
        return _kept(path) or key
    return key


def _kept(path: Path) -> str | None:
    return path.read_text("utf-8").strip() if path.exists() else None


async def _create(settings: Settings, role: Role, name: str) -> str:
    access = settings.access
    await asyncio.to_thread(migrate.upgrade, access.database_url)
    secret = server_secret(access)
    database = Database.open(access.database_url)
    try:
        issued = await KeyStore(database, secret).create(DEFAULT_TENANT, name, role=role)
    finally:
        await database.close()
    return issued.key.get_secret_value()


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
