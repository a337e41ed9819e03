from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from serving.access.authenticator import Authenticator
from serving.access.key_records import StoredKey
from serving.access.keys import KeyStore
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["database", "database_url", "empty_url", "postgres_url"]


class Clock:
    """Both clocks: seconds since the start, and the time of day."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


class WatchedStore(KeyStore):
    """A real store that counts look-ups, and whose database can be made unavailable."""

    def __init__(
        self, database: Database, secret: SecretStr, *, now: Callable[[], datetime]
    ) -> None:
        super().__init__(database, secret, now=now)
        self.lookups = 0
        self.down = False

    async def find(self, key_id: str) -> StoredKey | None:
        self.lookups += 1
        if self.down:
            raise DatabaseUnavailable("taken away")
        return await super().find(key_id)


@pytest.fixture
def secret() -> SecretStr:
    return SecretStr("server-secret-of-the-tests-0123456789")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, secret: SecretStr, clock: Clock) -> WatchedStore:
    return WatchedStore(database, secret, now=clock.now)


@pytest.fixture
def authenticator(store: WatchedStore, secret: SecretStr, clock: Clock) -> Authenticator:
    return Authenticator(store, secret, fixed_key=None, clock=clock, now=clock.now)
