"""Reservations in Valkey: shared exactly, settled once, and freed if a gateway crashes."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.admission.demand import (
    Budget,
    Demand,
    LimitReached,
    OverBudget,
    RateLimits,
    Settlement,
    Uninitialised,
)
from serving.admission.reservations import HOLD_AFTER_S, Reservations
from serving.domain.quota import Headroom, Quota
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey
from tests.elapsed import Elapsed
from tests.serving.live import eventually
from tests.serving.valkeys import initialise

MINUTE_MS = 60_000
BUDGET = Budget("key:k:total", limit_nanos=1000, keep_s=60)
_numbers = itertools.count()

Make = Callable[..., Reservations]


def demand(
    *limits: RateLimits, tokens: int = 0, cost: int = 0, budgets: Sequence[Budget] = ()
) -> Demand:
    number = f"r{next(_numbers)}"
    return Demand(
        number,
        tokens,
        cost,
        limits,
        budgets,
        [one.name for one in budgets],
        facts=f'{{"id":"{number}"}}',
    )


def used(tokens: int = 0, cost: int = 0, *, kept: bool = True) -> Settlement:
    return Settlement(tokens, cost, row='{"id":"row"}', kept=kept)


@pytest.fixture
async def make(valkey: Valkey, valkey_prefix: str) -> AsyncIterator[Make]:
    made: list[Reservations] = []

    def build(**options: Any) -> Reservations:
        made.append(Reservations(valkey, prefix=valkey_prefix, **options))
        return made[-1]

    yield build
    for one in made:
        await one.close()


@pytest.fixture
def one(make: Make) -> Reservations:
    return make()


@pytest.fixture
def elapsed() -> Elapsed:
    return Elapsed()


async def budget_of(valkey: Valkey, prefix: str) -> tuple[int, int]:
    """Return what is spent and what is reserved."""
    spent, reserved = await valkey.command(
        "HMGET", f"{prefix}budget:{BUDGET.name}", "spent", "reserved"
    )
    return int(spent or 0), int(reserved or 0)


async def rows(valkey: Valkey, prefix: str) -> list[Any]:
    entries = await valkey.command("XRANGE", f"{prefix}outbox", "-", "+")
    return [orjson.loads(row) for _, fields in entries for row in fields.values()]


async def test_requests_up_to_the_limit_are_granted_and_no_more(
    one: Reservations, elapsed: Elapsed
) -> None:
    limit = RateLimits("key:k", requests_per_minute=2)
    verdicts = [await one.reserve(demand(limit)) for _ in range(3)]
    assert [type(verdict) for verdict in verdicts] == [Quota, Quota, LimitReached]
    refused = verdicts[2]
    assert isinstance(refused, LimitReached)
    assert (refused.measure, refused.subject) == ("requests_per_minute", 0)
    assert elapsed.short_of(refused.wait_s, 60)


async def test_quota_counts_down_and_tells_when_it_is_whole_again(one: Reservations) -> None:
    limit = RateLimits("key:k", requests_per_minute=5, tokens_per_minute=100)
    quota = await one.reserve(demand(limit, tokens=30))
    assert quota == Quota(Headroom(5, 4, 60.0), Headroom(100, 70, 60.0))


async def test_quota_is_of_the_subject_with_the_least_left(one: Reservations) -> None:
    wide = RateLimits("tenant:t", requests_per_minute=100)
    narrow = RateLimits("key:k", requests_per_minute=3)
    quota = await one.reserve(demand(wide, narrow))
    assert isinstance(quota, Quota)
    assert quota.requests == Headroom(3, 2, 60.0)


async def test_tokens_are_taken_before_and_what_is_left_is_given_back(one: Reservations) -> None:
    limit = RateLimits("key:k", tokens_per_minute=100)
    first = demand(limit, tokens=80)
    await one.reserve(first)
    assert isinstance(await one.reserve(demand(limit, tokens=80)), LimitReached)
    await one.settle(first, used(tokens=15))
    quota = await one.reserve(demand(limit, tokens=80))
    assert isinstance(quota, Quota)
    assert quota.tokens == Headroom(100, 5, 60.0)


async def test_refusal_by_one_limit_takes_nothing_from_the_others(one: Reservations) -> None:
    wide = RateLimits("tenant:t", requests_per_minute=2, concurrent_requests=2)
    full = RateLimits("model:m", requests_per_minute=0)
    for _ in range(3):
        refused = await one.reserve(demand(wide, full))
        assert isinstance(refused, LimitReached)
        assert refused.subject == 1
    assert isinstance(await one.reserve(demand(wide)), Quota)


async def test_place_of_a_request_that_ended_is_free_again(one: Reservations) -> None:
    limit = RateLimits("key:k", concurrent_requests=1)
    first = demand(limit)
    await one.reserve(first)
    refused = await one.reserve(demand(limit))
    assert isinstance(refused, LimitReached)
    assert refused.measure == "concurrent_requests"
    await one.settle(first, used())
    assert isinstance(await one.reserve(demand(limit)), Quota)


async def test_request_that_never_ran_does_not_count(one: Reservations) -> None:
    limit = RateLimits("key:k", requests_per_minute=1, tokens_per_minute=10)
    turned_away = demand(limit, tokens=10)
    await one.reserve(turned_away)
    await one.settle(turned_away, used(kept=False))
    quota = await one.reserve(demand(limit, tokens=10))
    assert isinstance(quota, Quota)


async def test_window_moves(
    one: Reservations, valkey: Valkey, valkey_prefix: str, elapsed: Elapsed
) -> None:
    limit = RateLimits("key:k", requests_per_minute=1, tokens_per_minute=10)
    await one.reserve(demand(limit, tokens=10))
    await age(valkey, valkey_prefix, by_ms=MINUTE_MS - 5000)
    refused = await one.reserve(demand(limit, tokens=10))
    assert isinstance(refused, LimitReached)
    assert elapsed.short_of(refused.wait_s, 5)
    await age(valkey, valkey_prefix, by_ms=5001)
    assert isinstance(await one.reserve(demand(limit, tokens=10)), Quota)


async def test_wait_is_until_enough_tokens_are_free(
    one: Reservations, valkey: Valkey, valkey_prefix: str, elapsed: Elapsed
) -> None:
    limit = RateLimits("key:k", tokens_per_minute=100)
    await one.reserve(demand(limit, tokens=10))
    await age(valkey, valkey_prefix, by_ms=40_000)
    await one.reserve(demand(limit, tokens=90))
    little, much = [await one.reserve(demand(limit, tokens=n)) for n in (10, 11)]
    assert isinstance(little, LimitReached)
    assert isinstance(much, LimitReached)
    assert elapsed.short_of(little.wait_s, 20)
    assert elapsed.short_of(much.wait_s, 60)


async def age(valkey: Valkey, prefix: str, *, by_ms: int) -> None:
    """Advance the shared clock."""
    await valkey.command("HINCRBY", f"{prefix}clock", "offset", by_ms)


async def test_clock_that_goes_back_neither_blocks_nor_frees(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    limit = RateLimits("key:k", requests_per_minute=1)
    await one.reserve(demand(limit))
    # As if the clock had been an hour ahead until now.
    await valkey.command("HINCRBY", f"{valkey_prefix}clock", "raw", 3_600_000)
    window = f"{valkey_prefix}window:key:k"
    (entry,) = await valkey.command("ZRANGE", window, 0, -1)
    await valkey.command("ZINCRBY", window, 3_600_000, entry)
    refused = await one.reserve(demand(limit))
    assert isinstance(refused, LimitReached)
    assert refused.wait_s <= 60
    await age(valkey, valkey_prefix, by_ms=MINUTE_MS)
    assert isinstance(await one.reserve(demand(limit)), Quota)


async def test_two_gateways_share_a_limit_exactly(make: Make) -> None:
    limit = RateLimits("tenant:t", requests_per_minute=50)
    gateways = make(), make()
    verdicts = await asyncio.gather(*(gateways[i % 2].reserve(demand(limit)) for i in range(200)))
    assert sum(isinstance(verdict, Quota) for verdict in verdicts) == 50


async def test_budget_that_valkey_does_not_know_asks_for_the_ledger(
    make: Make, valkey: Valkey, valkey_prefix: str
) -> None:
    first, second = make(), make()
    assert await first.reserve(demand(cost=1, budgets=[BUDGET])) == Uninitialised(0, version=0)
    await initialise(first, BUDGET, 990)
    await initialise(second, BUDGET, 5)
    assert await budget_of(valkey, valkey_prefix) == (990, 0)
    assert await first.reserve(demand(cost=11, budgets=[BUDGET])) == OverBudget(0, in_flight=False)


async def test_sum_that_moves_while_it_is_looked_up_is_looked_up_again(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    """The ledger's answer may or may not include the settlement in between."""
    running, asks = replace(demand(), sums=[BUDGET.name]), demand(cost=1, budgets=[BUDGET])
    one.hold(running)
    assert await one.reserve(asks) == Uninitialised(0, version=0)
    await one.settle(running, used(cost=5))
    await one.initialise(BUDGET, 990, version=0)
    assert await one.reserve(asks) == Uninitialised(0, version=1)
    await one.initialise(BUDGET, 995, version=1)
    assert isinstance(await one.reserve(asks), Quota)
    assert await budget_of(valkey, valkey_prefix) == (995, 1)


async def test_parallel_requests_on_the_last_of_a_budget_overspend_nothing(
    make: Make, valkey: Valkey, valkey_prefix: str
) -> None:
    gateways = make(), make()
    await initialise(gateways[0], BUDGET, 0)

    async def spend(number: int) -> bool:
        wanted = demand(cost=30, budgets=[BUDGET])
        verdict = await gateways[number % 2].reserve(wanted)
        if isinstance(verdict, Quota):
            await asyncio.sleep(0.001 * (number % 7))
            await gateways[number % 2].settle(wanted, used(cost=number % 31))
        return isinstance(verdict, Quota)

    granted = await asyncio.gather(*(spend(number) for number in range(200)))
    spent, reserved = await budget_of(valkey, valkey_prefix)
    assert sum(granted) >= 33
    assert spent == sum(number % 31 for number, ok in enumerate(granted) if ok)
    assert (spent <= 1000, reserved) == (True, 0)


async def test_budget_in_the_hands_of_running_requests_is_told_apart(one: Reservations) -> None:
    await initialise(one, BUDGET, 0)
    await one.reserve(demand(cost=900, budgets=[BUDGET]))
    assert await one.reserve(demand(cost=200, budgets=[BUDGET])) == OverBudget(0, in_flight=True)


async def test_amounts_keep_every_digit(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    large = Budget(BUDGET.name, limit_nanos=2**53 - 1, keep_s=60)
    await initialise(one, large, 9_007_199_254_740_001)
    wanted = demand(cost=987, budgets=[large])
    assert isinstance(await one.reserve(wanted), Quota)
    await one.settle(wanted, used(cost=986))
    assert await budget_of(valkey, valkey_prefix) == (9_007_199_254_740_987, 0)


async def test_request_that_costs_nothing_is_settled_too(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    await initialise(one, BUDGET, 0)
    wanted = demand(RateLimits("key:k", tokens_per_minute=9), budgets=[BUDGET])
    await one.reserve(wanted)
    assert await one.settle(wanted, used()) == ["settled"]
    assert await budget_of(valkey, valkey_prefix) == (0, 0)


async def test_operation_that_cannot_be_done_keeps_no_other_from_it(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    await valkey.command("SET", f"{valkey_prefix}window:key:broken", "of another type")
    broken, sound = RateLimits("key:broken", requests_per_minute=1), RateLimits("key:k", 1)
    failed, granted = await asyncio.gather(
        one.reserve(demand(broken)), one.reserve(demand(sound)), return_exceptions=True
    )
    assert isinstance(failed, ValkeyUnavailable)
    assert isinstance(granted, Quota)


async def test_settlement_writes_its_row_once(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    wanted = demand(RateLimits("key:k", concurrent_requests=1))
    await one.reserve(wanted)
    await one.settle(wanted, used())
    assert await rows(valkey, valkey_prefix) == [{"id": "row"}]


async def test_what_a_dead_gateway_held_is_free_after_its_lease(
    make: Make, valkey: Valkey, valkey_prefix: str
) -> None:
    limit = RateLimits("key:k", concurrent_requests=1, tokens_per_minute=100)
    dead, alive = make(lease_s=20.0), make()
    await initialise(dead, BUDGET, 0)
    lost = demand(limit, tokens=40, cost=700, budgets=[BUDGET])
    await dead.reserve(lost)
    assert isinstance(await alive.reserve(demand(limit)), LimitReached)
    await age(valkey, valkey_prefix, by_ms=20_001)
    quota = await alive.reserve(demand(limit, tokens=10))
    assert isinstance(quota, Quota)
    assert quota.tokens == Headroom(100, 50, 60.0)
    assert await budget_of(valkey, valkey_prefix) == (0, 0)
    assert await rows(valkey, valkey_prefix) == [{"id": lost.id}]


async def test_gateway_that_is_heard_of_keeps_what_it_holds(make: Make) -> None:
    limit = RateLimits("key:k", concurrent_requests=1)
    quiet, other = make(lease_s=1.5, heartbeat_s=0.05), make()
    quiet.start()
    await quiet.reserve(demand(limit))
    await asyncio.sleep(2.0)
    assert isinstance(await other.reserve(demand(limit)), LimitReached)


async def test_attempt_that_was_given_up_for_lost_is_charged_when_it_ends(
    make: Make, valkey: Valkey, valkey_prefix: str
) -> None:
    stalled, other = make(lease_s=0.1), make()
    await initialise(stalled, BUDGET, 0)
    wanted = demand(cost=100, budgets=[BUDGET])
    await stalled.reserve(wanted)
    await asyncio.sleep(0.15)
    await other.reserve(demand())
    await stalled.settle(wanted, used(cost=60))
    assert await budget_of(valkey, valkey_prefix) == (60, 0)


async def test_request_that_goes_away_while_it_is_let_in_holds_nothing(
    one: Reservations, valkey: Valkey, valkey_prefix: str
) -> None:
    limit = RateLimits("key:k", concurrent_requests=1)
    for turns in range(6):
        wanted = demand(limit)
        task = asyncio.create_task(one.reserve(wanted))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():  # Valkey was faster; whoever was let in gives its place back.
            await one.settle(wanted, used())
    assert isinstance(await one.reserve(demand(limit)), Quota)
    assert await valkey.command("SCARD", f"{valkey_prefix}open:key:k") == 1


class Losing:
    """A Valkey whose replies are lost after it has executed the commands."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self.lose = 0

    async def run(self, script: str, *args: Any) -> Any:
        answer = await self._valkey.run(script, *args)
        if self.lose > 0:
            self.lose -= 1
            raise ValkeyUnavailable("the answer was lost")
        return answer


async def test_settlement_whose_answer_was_lost_counts_once(
    valkey: Valkey, valkey_prefix: str
) -> None:
    losing = Losing(valkey)
    one = Reservations(losing, prefix=valkey_prefix, heartbeat_s=0.05)  # type: ignore[arg-type]
    await initialise(one, BUDGET, 0)
    wanted = demand(cost=100, budgets=[BUDGET])
    await one.reserve(wanted)
    losing.lose = 2
    with pytest.raises(ValkeyUnavailable):
        await one.settle(wanted, used(cost=70))
    assert one.unsettled == 1
    one.start()
    assert await eventually(lambda: one.unsettled == 0)
    assert await budget_of(valkey, valkey_prefix) == (70, 0)
    assert await rows(valkey, valkey_prefix) == [{"id": "row"}]
    await one.close()


async def test_reservation_whose_answer_was_lost_is_given_back(
    valkey: Valkey, valkey_prefix: str
) -> None:
    losing = Losing(valkey)
    one = Reservations(losing, prefix=valkey_prefix)  # type: ignore[arg-type]
    limit = RateLimits("key:k", requests_per_minute=1, concurrent_requests=1)
    losing.lose = 1
    with pytest.raises(ValkeyUnavailable):
        await one.reserve(demand(limit))
    assert isinstance(await one.reserve(demand(limit)), Quota)
    await one.close()


async def test_request_without_limits_is_in_the_ledger_though_its_gateway_dies(
    make: Make, valkey: Valkey, valkey_prefix: str
) -> None:
    dead, alive = make(lease_s=0.1), make()
    lost = demand()
    dead.hold(lost)
    await asyncio.sleep(HOLD_AFTER_S + 0.2)
    await alive.reserve(demand())
    assert await rows(valkey, valkey_prefix) == [{"id": lost.id}]


@pytest.fixture
def server(tmp_path: Path) -> Any:
    embedded = EmbeddedValkey(tmp_path)
    embedded.ensure()
    yield embedded
    embedded.stop()


async def test_valkey_killed_and_restarted_has_lost_nothing(server: EmbeddedValkey) -> None:
    valkey = Valkey.open(server.url, timeout_s=2)
    one = Reservations(valkey, heartbeat_s=0.05)
    one.start()
    await initialise(one, BUDGET, 0)
    limit = RateLimits("key:k", requests_per_minute=5)
    wanted = [demand(limit, cost=10, budgets=[BUDGET]) for _ in range(4)]
    for each in wanted:
        await one.reserve(each)
    await one.settle(wanted[0], used(cost=7))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ValkeyUnavailable):
        await one.settle(wanted[1], used(cost=8))
    with pytest.raises(ValkeyUnavailable):
        await one.reserve(demand(limit))
    async with asyncio.timeout(30):
        while one.unsettled or not one.available:
            server.ensure()  # As `ringfence serve` does, again and again.
            await asyncio.sleep(0.02)
    assert await budget_of(valkey, "{ringfence}:") == (15, 20)
    verdicts = [await one.reserve(demand(limit)) for _ in range(2)]
    assert [type(verdict) for verdict in verdicts] == [Quota, LimitReached]
    await one.close()
    await valkey.close()


async def test_what_runs_is_held_again_after_valkey_lost_everything(
    valkey: Valkey, valkey_prefix: str
) -> None:
    one = Reservations(valkey, prefix=valkey_prefix)
    limit = RateLimits("key:k", concurrent_requests=1)
    await initialise(one, BUDGET, 0)
    running = demand(limit, cost=300, budgets=[BUDGET])
    await one.reserve(running)
    for name in await valkey.command("KEYS", f"{valkey_prefix}*"):
        await valkey.command("DEL", name)
    await one.reserve(demand())
    await initialise(one, BUDGET, 40)
    assert isinstance(await one.reserve(demand(limit)), LimitReached)
    assert await budget_of(valkey, valkey_prefix) == (40, 300)
    await one.settle(running, used(cost=100))
    assert await budget_of(valkey, valkey_prefix) == (140, 0)
    await one.close()
