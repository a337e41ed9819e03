"""A database in which processes crash: SQLite always, PostgreSQL only in the full run."""

from __future__ import annotations

import pytest

from serving.storage.migrate import upgrade
from tests.serving.storage.databases import on_postgres, postgres_url

__all__ = ["postgres_url"]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.full)]
)
def steps_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('steps')}/ringfence.db"
    else:
        url = request.getfixturevalue("postgres_url")
        on_postgres(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    upgrade(url)
    return url
