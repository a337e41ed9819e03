from tests.serving.access.conftest import (
    authenticator,
    clock,
    database,
    database_url,
    empty_url,
    postgres_url,
    secret,
    store,
)

__all__ = [
    "authenticator",
    "clock",
    "database",
    "database_url",
    "empty_url",
    "postgres_url",
    "secret",
    "store",
]
