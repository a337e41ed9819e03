"""Fixtures: the embedded Valkey, and the Redis on this machine, by URL.

The server of TEST_REDIS_URL, else database 15 of the local one. A test's keys have a prefix of
their own and are deleted by it; nothing else there is touched.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import valkey as valkey_client

from serving.admission.demand import NEVER_RAN, Budget, Demand, Uninitialised
from serving.admission.reservations import Reservations
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.valkey import Valkey

__all__ = ["embedded_valkey_url", "redis_url", "valkey", "valkey_prefix", "valkey_url"]

LOCAL_REDIS = "redis://127.0.0.1:6379/15"


@pytest.fixture(scope="session")
def embedded_valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.ensure()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def redis_url() -> str:
    given = os.environ.get("TEST_REDIS_URL")
    url = given or LOCAL_REDIS
    client = valkey_client.Valkey.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0)
    try:
        client.ping()
    except valkey_client.ValkeyError as error:
        if given:
            raise
        pytest.skip(f"Redis does not answer at {url}: {error}")
    finally:
        client.close()
    return url


@pytest.fixture(params=["embedded_valkey_url", "redis_url"])
def valkey_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def valkey_prefix() -> str:
    return f"{{test-{secrets.token_hex(6)}}}"


@pytest.fixture
async def valkey(valkey_url: str, valkey_prefix: str) -> AsyncIterator[Valkey]:
    # Not the deadline of a gateway: two cores that run tests may be busy for longer.
    opened = Valkey.open(valkey_url, timeout_s=5.0)
    yield opened
    for name in await names(opened, valkey_prefix):
        await opened.command("DEL", name)
    await opened.close()


async def initialise(reservations: Reservations, budget: Budget, spent_nanos: int) -> None:
    """Record what was spent of a budget in Valkey as admission does; no effect if it is known."""
    asks = Demand(secrets.token_hex(8), 0, 0, [], [budget], [budget.name], facts="{}")
    verdict = await reservations.reserve(asks)
    if isinstance(verdict, Uninitialised):
        await reservations.initialise(budget, spent_nanos, version=verdict.version)
    else:
        await reservations.settle(asks, NEVER_RAN)


async def names(valkey: Valkey, prefix: str) -> list[bytes]:
    """Return every key with that prefix."""
    found: list[bytes] = await valkey.command("KEYS", prefix + "*")
    return sorted(found)
