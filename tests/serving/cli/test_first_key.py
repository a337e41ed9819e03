"""The keys that the first start makes."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path

import pytest

from serving import config
from serving.access.authenticator import Authenticator
from serving.access.keys import KeyStore
from serving.access.secret import server_secret
from serving.cli.first_key import first_key, kept_admin_key, kept_key
from serving.config import Settings
from serving.domain.principal import Principal
from serving.storage.database import Database


@pytest.fixture
def settings(home: Path) -> Settings:  # noqa: ARG001  Sets it up.
    return config.load()


def principals(settings: Settings, *keys: str | None) -> list[Principal]:
    """Return the principals of keys."""

    async def check() -> list[Principal]:
        database = Database.open(settings.access.database_url)
        secret = server_secret(settings.access)
        try:
            checking = Authenticator(KeyStore(database, secret), secret, fixed_key=None)
            return [await checking.authenticate_key(key) for key in keys]
        finally:
            await database.close()

    return asyncio.run(check())


def test_first_start_makes_a_key_of_each_role(settings: Settings) -> None:
    key = first_key(settings)
    assert key == kept_key(settings)
    inference, admin = principals(settings, key, kept_admin_key(settings))
    assert [(one.tenant, one.role) for one in (inference, admin)] == [
        ("default", "inference"), ("default", "admin"),
    ]  # fmt: skip
    assert re.fullmatch("first-[0-9a-f]{6}", inference.key_name)
    assert re.fullmatch("admin-[0-9a-f]{6}", admin.key_name)


def test_files_are_private(settings: Settings, home: Path) -> None:
    first_key(settings)
    for name in ("first-key", "admin-key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_second_start_keeps_the_keys(settings: Settings) -> None:
    made = first_key(settings), kept_admin_key(settings)
    assert (first_key(settings), kept_admin_key(settings)) == made


def test_admin_key_is_made_beside_a_first_key_of_an_older_version(
    settings: Settings, home: Path
) -> None:
    made = first_key(settings)
    (home / "admin-key").unlink()
    assert first_key(settings) == made
    (admin,) = principals(settings, kept_admin_key(settings))
    assert admin.role == "admin"


def test_key_of_the_environment_leaves_the_admin_key_to_be_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_API_KEY", "fixed")
    settings = config.load()
    assert first_key(settings) is None
    assert not (home / "first-key").exists()
    (admin,) = principals(settings, kept_admin_key(settings))
    assert admin.role == "admin"


def test_keys_that_no_start_has_made_are_none(settings: Settings) -> None:
    assert (kept_key(settings), kept_admin_key(settings)) == (None, None)
