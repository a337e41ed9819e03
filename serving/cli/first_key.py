"""The key that the first start makes, so that a newcomer can call at once. Kept in a 0600 file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.config import Settings
from serving.storage import migrate
from serving.storage.database import Database


def first_key(settings: Settings) -> str | None:
    """The key in `<home>/first-key`; made when the file is missing.

    Returns:
        None when RINGFENCE_API_KEY gives a key: that one is used then, and not shown.
    """
    if settings.api_key is not None:
        return None
    if kept := kept_key(settings):
        return kept
    key = asyncio.run(_create(settings))
    try:
        _write_private(settings.home / "first-key", key)
    except FileExistsError:  # Another start was faster; its key is the one.
        return kept_key(settings)
    return key


def kept_key(settings: Settings) -> str | None:
    """The key in `<home>/first-key`; None when no start has made it."""
    path = settings.home / "first-key"
    return path.read_text("utf-8").strip() if path.exists() else None


async def _create(settings: Settings) -> str:
    access = settings.access
    await asyncio.to_thread(migrate.upgrade, access.database_url)
    secret = server_secret(access)
    database = Database.open(access.database_url)
    try:
        issued = await KeyStore(database, secret).create(
            "default", f"first-{os.urandom(3).hex()}", role="inference"
        )
    finally:
        await database.close()
    return issued.key.get_secret_value()


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
