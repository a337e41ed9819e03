"""The admin API on its own database, with fakes for usage and spending."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.types import ASGIApp

from serving.access import audit
from serving.access.authenticator import Authenticator
from serving.access.key_records import IssuedKey
from serving.access.keys import KeyStore
from serving.access.tenants import TenantStore
from serving.accounting.usage import Dimension, SpendingLookup, UsageReport, UsageRow
from serving.admission.limits import LimitStore
from serving.answering.outbound import Scrubber
from serving.config import LimitSettings, ServerSettings
from serving.domain.principal import Principal
from serving.domain.quota import Spent
from serving.gateway.admin.administration import Administration
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.idempotency.store import IdempotencyStore
from serving.pipeline import Pipeline
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.policy import PrivacyPolicy
from serving.storage.database import Database
from serving.storage.migrate import upgrade
from serving.storage.valkey import Valkey
from serving.telemetry.meter import Meter
from tests.serving.conftest import SECRET, FixedReadiness
from tests.serving.privacy.known_words import KnownWords

__all__ = ["database", "managed", "managed_store"]

WORDS = KnownWords({"Jane Roe": "PERSON"})


@dataclass
class FakeSpending(SpendingLookup):
    """Returns what was spent by subject and window; else nothing. Fails on demand."""

    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)
    error: Exception | None = None

    async def spending(self, subject: str, windows: Sequence[str]) -> Mapping[str, Spent]:
        if self.error is not None:
            raise self.error
        return {w: self.spent.get((subject, w), Spent(0, 0)) for w in windows}


@dataclass
class FakeUsage(UsageReport):
    """Returns given rows, and records queries. Fails on demand."""

    rows: Sequence[UsageRow] = ()
    error: Exception | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def report(
        self,
        *,
        group_by: Sequence[Dimension],
        since: date | None,
        until: date | None,
        tenant: str | None,
        key_id: str | None,
        model: str | None,
    ) -> Sequence[UsageRow]:
        self.asked.append(
            {"group_by": list(group_by), "since": since, "until": until}
            | {"tenant": tenant, "key_id": key_id, "model": model}
        )
        if self.error is not None:
            raise self.error
        return self.rows


@dataclass(frozen=True, slots=True)
class Managed:
    """A gateway with the admin API. `key` is an admin's, of tenant `ops`; `other` is not."""

    app: ASGIApp
    client: httpx.AsyncClient
    administration: Administration
    spending: FakeSpending
    usage: FakeUsage
    key: str
    key_id: str
    other: str
    other_id: str

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        sent: str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        return await self.client.request(
            method,
            f"/admin/v1{path}",
            json=body,
            params=query,
            headers={"authorization": f"Bearer {sent or self.key}"} | dict(headers or {}),
        )

    async def data(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Return the answer, which must be successful."""
        answer = await self.call(method, path, body, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refusal(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Return status, code and param of the answer, which must be an error in our format."""
        answer = await self.call(method, path, body, **query)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return answer.status_code, error["code"], error["param"]

    async def audit(self) -> list[tuple[str, str, str]]:
        """Return actor, action and subject of all changes except those of the fixture."""
        events = await audit.events(self.administration.database, limit=1000)
        told = [(e.actor, e.action, f"{e.subject_kind}:{e.subject}") for e in reversed(events)]
        return told[4:]


@dataclass(frozen=True, slots=True)
class Store:
    """A database to be copied, with an admin's key and another one."""

    path: Path
    boss: IssuedKey
    other: IssuedKey


@pytest.fixture(scope="session")
def managed_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("managed") / "ringfence.db"
    upgrade(f"sqlite:///{path}")

    async def create() -> Store:
        opened = Database.open(f"sqlite:///{path}")
        try:
            keys = KeyStore(opened, SECRET)
            boss = await keys.create("ops", "boss", role="admin")
            return Store(path, boss, await keys.create("acme", "ci"))
        finally:
            await opened.close()

    return asyncio.run(create())


@pytest.fixture
async def database(managed_store: Store, tmp_path: Path) -> AsyncIterator[Database]:
    copy = shutil.copy(managed_store.path, tmp_path / "ringfence.db")
    opened = Database.open(f"sqlite:///{copy}")
    yield opened
    await opened.close()


class Callers:
    """What the gateway asks of a pipeline where no model is run: who calls."""

    def __init__(self, administration: Administration) -> None:
        self.authenticate = administration.authenticate

    async def may_begin(self, principal: Principal, request_id: str) -> None:
        """Every request may."""


@pytest.fixture
async def managed(
    managed_store: Store, database: Database, embedded_valkey_url: str, valkey_prefix: str
) -> AsyncIterator[Managed]:
    valkey = Valkey.open(embedded_valkey_url)
    keys = KeyStore(database, SECRET)
    boss, other = managed_store.boss, managed_store.other
    spending, usage = FakeSpending(), FakeUsage()
    administration = Administration(
        authenticate=Authenticator(keys, SECRET, fixed_key=None).authenticate,
        database=database,
        tenants=TenantStore(database),
        keys=keys,
        limits=LimitStore(database),
        spending=spending,
        usage=usage,
        scrubber=Scrubber(
            WORDS,
            rules=OperatorRules(),
            secret=SECRET,
            default=PrivacyPolicy(),
            tenants={"strict": PrivacyPolicy.of({"PERSON": "block"})},
            timeout_s=1.0,
        ),
        models=frozenset({"chat", "org/large"}),
        currency="USD",
    )
    requests = OpenRequests()
    app = build_app(
        cast("Pipeline", Callers(administration)),
        Idempotency(IdempotencyStore(valkey, SECRET, prefix=valkey_prefix), requests=requests),
        requests=requests,
        readiness=FixedReadiness({}),
        meter=Meter(),
        server=ServerSettings(body_timeout_s=0.2),
        limits=LimitSettings(),
        administration=administration,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://ringfence") as client:
        yield Managed(
            app,
            client,
            administration,
            spending,
            usage,
            boss.key.get_secret_value(),
            boss.record.id,
            other.key.get_secret_value(),
            other.record.id,
        )
    await valkey.close()
