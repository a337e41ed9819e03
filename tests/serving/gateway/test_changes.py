"""A change holds on every gateway from the moment its call returns, whoever made it.

Two gateways share one Valkey and one database, as two replicas do. Both have just answered, so
that they keep what was said of the key and its limits; whoever changes it is neither of them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.catalog import ModelSpec
from serving.access.invalidation import Announcer
from serving.access.key_records import IssuedKey
from serving.access.keys import KeyStore
from serving.access.tenants import TenantStore
from serving.admission.limits import LimitStore, LimitValue, Measure, Subject
from serving.domain.principal import Principal
from serving.storage.database import Database
from serving.storage.schema import ApiKey
from serving.storage.valkey import Valkey
from tests.serving.conftest import SECRET, Backend, Make
from tests.serving.fakes import ROLE, WHOLE, ScriptedEngine
from tests.serving.gateway.test_admission import PRICED, PROMPT_TOKENS
from tests.serving.live import eventually

BURST = 40
COST_NANOS = 2000 * PROMPT_TOKENS + 5000
"""Cost of a request below, which asks for one token."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways, a key that both have seen, and the stores of a third process."""

    gateways: tuple[Backend, Backend]
    keys: KeyStore
    limits: LimitStore
    announcer: Announcer
    tenants: TenantStore
    issued: IssuedKey

    @property
    def key(self) -> str:
        return self.issued.key.get_secret_value()

    @property
    def subjects(self) -> dict[str, Subject]:
        record = self.issued.record
        return {
            "key": Subject("key", record.id),
            "tenant": Subject("tenant", record.tenant),
            "model": Subject("model", "chat"),
        }

    async def warm(self, key: str | None = None) -> None:
        """Let both gateways cache what they know of the key."""
        assert {await self._status(one, key) for one in self.gateways} == {200}

    async def burst(self, count: int = BURST, key: str | None = None) -> Counter[int]:
        """Send requests at once over both gateways; return how many got which status."""
        asked = (self._status(self.gateways[number % 2], key) for number in range(count))
        return Counter(await asyncio.gather(*asked))

    async def _status(self, gateway: Backend, key: str | None) -> int:
        answer = await gateway.chat(key=key or self.key, max_tokens=1)
        return answer.status_code

    async def set(self, subject: str, **bounds: int | None) -> None:
        changes = {
            _measure(name): None if bound is None else LimitValue(bound, "refuse")
            for name, bound in bounds.items()
        }
        await self.limits.change(self.subjects[subject], changes)


def _measure(name: str) -> Measure:
    return name  # type: ignore[return-value]


MakePair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def make_pair(
    make: Make, database: Database, embedded_valkey_url: str
) -> AsyncIterator[MakePair]:
    outsiders: list[Valkey] = []

    async def build(
        engine: Callable[[], ScriptedEngine | None] = lambda: None,
        specs: tuple[ModelSpec, ...] = PRICED,
    ) -> Pair:
        prefix = f"{{pair-{secrets.token_hex(6)}}}:"
        gateways = [make(engine(), specs=specs, prefix=prefix) for _ in range(2)]
        for gateway in gateways:
            gateway.admission_parts.start()
            assert await eventually(gateway.admission_parts.invalidations.is_current)
        outsiders.append(Valkey.open(embedded_valkey_url, timeout_s=5.0))
        announcer = Announcer(outsiders[-1], prefix=prefix)
        announce = announcer.announce
        keys = KeyStore(database, SECRET, announce=announce)
        return Pair(
            (gateways[0], gateways[1]),
            keys,
            LimitStore(database, announce=announce),
            announcer,
            TenantStore(database, announce=announce),
            await keys.create(f"t{secrets.token_hex(6)}", "ci"),
        )

    yield build
    for outsider in outsiders:
        await outsider.close()


@pytest.fixture
async def pair(make_pair: MakePair) -> AsyncIterator[Pair]:
    pair = await make_pair()
    yield pair
    await pair.limits.change(pair.subjects["model"], {"requests_per_minute": None})


@pytest.mark.parametrize("window", ["day", "month", "total"])
@pytest.mark.parametrize("subject", ["key", "tenant"])
async def test_budget_that_was_just_set_holds(pair: Pair, subject: str, window: str) -> None:
    await pair.warm()
    spent = 2 * COST_NANOS
    await pair.set(subject, **{f"budget_{window}": spent + 3 * COST_NANOS})
    assert await pair.burst() == {200: 3, 429: BURST - 3}


async def test_budget_below_what_is_spent_already_lets_nothing_through(pair: Pair) -> None:
    await pair.warm()
    await pair.set("key", budget_day=COST_NANOS)
    assert await pair.burst() == {429: BURST}


@pytest.mark.parametrize("subject", ["key", "tenant", "model"])
async def test_rate_that_was_just_set_holds(pair: Pair, subject: str) -> None:
    await pair.warm()
    await pair.set(subject, requests_per_minute=5)
    assert await pair.burst() == {200: 5, 429: BURST - 5}


async def test_tokens_a_minute_that_were_just_set_hold(pair: Pair) -> None:
    await pair.warm()
    await pair.set("tenant", tokens_per_minute=4 * (PROMPT_TOKENS + 1))
    assert await pair.burst() == {200: 4, 429: BURST - 4}


async def test_tokens_a_request_that_were_just_set_hold(pair: Pair) -> None:
    await pair.warm()
    await pair.set("key", tokens_per_request=PROMPT_TOKENS)
    assert await pair.burst() == {429: BURST}


async def test_concurrency_that_was_just_set_holds(make_pair: MakePair) -> None:
    gate = asyncio.Event()
    gate.set()
    pair = await make_pair(lambda: ScriptedEngine(ROLE, gate, *WHOLE[1:]))
    await pair.warm()
    gate.clear()
    await pair.set("key", concurrent_requests=3)
    burst = [asyncio.create_task(pair.burst(1)) for _ in range(BURST)]
    assert await eventually(lambda: sum(one.done() for one in burst) == BURST - 3)
    gate.set()
    assert sum(await asyncio.gather(*burst), Counter()) == {200: 3, 429: BURST - 3}


async def test_limit_that_was_just_taken_away_holds_nobody_back(pair: Pair) -> None:
    await pair.set("key", requests_per_minute=0)
    assert await pair.burst(2) == {429: 2}
    await pair.set("key", requests_per_minute=None)
    assert await pair.burst() == {200: BURST}


async def test_key_that_was_just_revoked_is_refused(pair: Pair) -> None:
    await pair.warm()
    await pair.keys.revoke(pair.issued.record.id)
    assert await pair.burst() == {401: BURST}


async def test_key_that_was_just_rotated_is_refused_and_its_successor_is_not(pair: Pair) -> None:
    await pair.warm()
    successor = await pair.keys.rotate(pair.issued.record.id)
    assert await pair.burst() == {401: BURST}
    assert await pair.burst(key=successor.key.get_secret_value()) == {200: BURST}


async def test_key_that_retires_later_works_until_then(pair: Pair) -> None:
    await pair.warm()
    successor = await pair.keys.rotate(pair.issued.record.id, grace_s=3600)
    await pair.set("key", requests_per_minute=5)
    assert await pair.burst() == {200: 5, 429: BURST - 5}
    await pair.keys.revoke(pair.issued.record.id)
    assert await pair.burst() == {401: BURST}
    assert await pair.burst(key=successor.key.get_secret_value()) == {200: BURST}


async def test_keys_of_a_tenant_that_was_just_deleted_are_refused(pair: Pair) -> None:
    other = await pair.keys.create(pair.issued.record.tenant, "other")
    await pair.warm()
    await pair.warm(other.key.get_secret_value())
    await pair.tenants.delete(pair.issued.record.tenant)
    assert await pair.burst() == {401: BURST}
    assert await pair.burst(key=other.key.get_secret_value()) == {401: BURST}


async def test_weight_that_was_just_changed_holds(pair: Pair) -> None:
    await pair.warm()
    record = pair.issued.record
    principal = Principal(record.tenant, record.id, record.name, "inference", None)
    await pair.tenants.set_weight(record.tenant, 7.0)
    for gateway in pair.gateways:
        policy = await gateway.admission_parts.admission.policies.of(principal, "chat")
        assert policy.weight == 7.0


async def test_right_that_somebody_changed_in_the_database_holds_once_announced(
    pair: Pair, database: Database
) -> None:
    """No command changes a key's rights, but an operator who does it in SQL can announce it."""
    await pair.warm()
    key_id = pair.issued.record.id
    async with database.transaction() as session:
        row = await session.get_one(ApiKey, key_id)
        row.allowed_models = ["other"]
    await pair.announcer.announce(f"key:{key_id}")
    assert await pair.burst() == {404: BURST}


async def test_key_that_was_revoked_while_its_request_waits_for_a_place_gets_none(
    make_pair: MakePair,
) -> None:
    gate, engines = asyncio.Event(), list[ScriptedEngine]()

    def build() -> ScriptedEngine:
        engines.append(ScriptedEngine(ROLE, gate, *WHOLE[1:]))
        return engines[-1]

    narrow = [one.model_copy(update={"max_ongoing_requests": 1}) for one in PRICED]
    pair = await make_pair(build, specs=tuple(narrow))
    other = await pair.keys.create(pair.issued.record.tenant, "other")
    running = asyncio.create_task(pair.burst(2, key=other.key.get_secret_value()))
    assert await eventually(lambda: all(one.open for one in engines))
    waiting = asyncio.create_task(pair.burst(10))
    queues = [one.admission_parts.admission.queues["chat"] for one in pair.gateways]
    assert await eventually(lambda: sum(queue.waiting for queue in queues) == 10)
    await pair.keys.revoke(pair.issued.record.id)
    assert await asyncio.wait_for(waiting, 60) == {401: 10}
    gate.set()
    assert await running == {200: 2}


async def test_changes_in_any_order_hold_at_once(pair: Pair) -> None:
    seed = secrets.randbits(32)
    chance = random.Random(seed)  # noqa: S311  Nothing is kept secret by it.
    state = State(pair, pair.issued)
    for _ in range(15):
        await chance.choice([state.bound, state.bound, state.rotate, state.replace])(chance)
        live = state.live.key.get_secret_value()
        assert await pair.burst(6, key=live) == {429 if state.closed else 200: 6}, seed
        for gone in state.gone[-2:]:
            assert await pair.burst(2, key=gone.key.get_secret_value()) == {401: 2}, seed


@dataclass(slots=True)
class State:
    """The state that results from many changes."""

    pair: Pair
    live: IssuedKey
    gone: list[IssuedKey] = field(default_factory=list)
    closed: set[tuple[str, str]] = field(default_factory=set)
    """Limits of 0, by subject and measure."""

    async def bound(self, chance: random.Random) -> None:
        """Set a limit to 0, or remove it again."""
        kind = chance.choice(["key", "tenant"])
        measures = ["requests_per_minute", "concurrent_requests", "budget_day", "budget_total"]
        measure = chance.choice(measures)
        subject = Subject("key", self.live.record.id) if kind == "key" else self.pair.subjects[kind]
        opened = (kind, measure) in self.closed
        change = {_measure(measure): None if opened else LimitValue(0, "refuse")}
        await self.pair.limits.change(subject, change)
        self.closed ^= {(kind, measure)}

    async def rotate(self, chance: random.Random) -> None:
        """Limits move to the key that replaces this one."""
        del chance
        self.gone.append(self.live)
        self.live = await self.pair.keys.rotate(self.live.record.id)

    async def replace(self, chance: random.Random) -> None:
        """Another key does not get the limits of this one."""
        self.gone.append(self.live)
        await self.pair.keys.revoke(self.live.record.id)
        name = f"k{chance.random()}"
        self.live = await self.pair.keys.create(self.live.record.tenant, name)
        self.closed = {one for one in self.closed if one[0] != "key"}


async def asked_slowly(pair: Pair, meanwhile: Callable[[], Awaitable[object]]) -> int:
    """Return the status of a request during whose body something happens."""
    await pair.warm()
    happened = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"model": "chat", "max_tokens": 1, '
        await meanwhile()
        happened.set()
        yield b'"messages": [{"role": "user", "content": "Hi"}]}'

    answer = await pair.gateways[0].client.post(
        "/v1/chat/completions",
        content=slow_body(),
        headers={"authorization": f"Bearer {pair.key}"},
    )
    assert happened.is_set()
    return answer.status_code


async def test_key_that_was_revoked_while_its_body_arrives_is_refused(pair: Pair) -> None:
    assert await asked_slowly(pair, lambda: pair.keys.revoke(pair.issued.record.id)) == 401


async def test_right_that_was_changed_while_the_body_arrives_holds(
    pair: Pair, database: Database
) -> None:
    async def take_away() -> None:
        async with database.transaction() as session:
            row = await session.get_one(ApiKey, pair.issued.record.id)
            row.allowed_models = ["other"]
        await pair.announcer.announce(f"key:{pair.issued.record.id}")

    assert await asked_slowly(pair, take_away) == 404


async def test_change_holds_when_whoever_makes_it_cannot_reach_valkey(
    pair: Pair, database: Database, tmp_path: Path
) -> None:
    away = Valkey.open(f"unix://{tmp_path}/nobody.sock")
    keys = KeyStore(database, SECRET, announce=Announcer(away).announce)
    await pair.warm()
    await keys.revoke(pair.issued.record.id)
    assert await pair.burst() == {401: BURST}
    await away.close()


async def test_gateway_that_misses_an_announcement_does_not_serve_the_old(pair: Pair) -> None:
    deaf = pair.gateways[1].admission_parts.invalidations
    await pair.warm()
    await deaf.loop.close()
    await pair.keys.revoke(pair.issued.record.id)
    assert not deaf.is_current()
    assert await pair.burst() == {401: BURST}
