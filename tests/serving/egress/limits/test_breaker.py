"""Circuit breakers: shared by gateways, and alone; on both stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.egress.limits.breaker import RULES, ProviderOutcome
from serving.egress.limits.gatekeeper import AWAY_S, LEASE_S, SPREAD, Gatekeeper, ProviderAttempt
from serving.egress.limits.provider_limits import Denied, ProviderLimits
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey
from tests.serving.egress.gates import Gates, attempt, denied, ended, gates

__all__ = ["gates"]

FAILED: list[ProviderOutcome] = ["failed"]
COMPLETED: list[ProviderOutcome] = ["completed"]
ABANDONED: list[ProviderOutcome] = ["abandoned"]


@pytest.fixture
def one(gates: Gates) -> Gatekeeper:
    return gates.gatekeeper()


@pytest.fixture
def other(gates: Gates) -> Gatekeeper:
    return gates.gatekeeper()


async def open_breaker(gatekeeper: Gatekeeper) -> None:
    await ended(gatekeeper, *FAILED * RULES.failures_in_row)


async def test_breaker_opens_for_all_gateways_after_failures_in_a_row(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    await ended(one, *FAILED * 3)
    await ended(other, *FAILED * 2)
    for gatekeeper in (one, other):
        refused = await denied(gatekeeper)
        assert refused.reason == "open"
        assert gates.elapsed.short_of(refused.retry_after_s, RULES.cooldown_s)


async def test_breaker_is_of_one_model(one: Gatekeeper) -> None:
    await open_breaker(one)
    await attempt(one, model="n")
    await attempt(one, provider="q")


async def test_success_ends_a_row_of_failures(one: Gatekeeper) -> None:
    for _ in range(2):
        await ended(one, *COMPLETED * 8, *FAILED * (RULES.failures_in_row - 1))
    await attempt(one)


async def test_stream_that_breaks_off_is_a_failure_and_its_beginning_no_success(
    one: Gatekeeper,
) -> None:
    """Streams that overlap: each begins well before the previous one breaks off."""
    running = await attempt(one)
    for _ in range(RULES.failures_in_row):
        following = await attempt(one)
        await running.end("failed")
        running = following
    assert (await denied(one)).reason == "open"


async def test_breaker_opens_at_a_rate_of_failures(one: Gatekeeper) -> None:
    await ended(one, *(COMPLETED + FAILED) * 4, "completed")
    await attempt(one)
    await ended(one, "failed")
    assert (await denied(one)).reason == "open"


async def test_failures_that_are_long_past_are_no_rate(one: Gatekeeper, gates: Gates) -> None:
    await ended(one, *(FAILED + COMPLETED) * 4)
    await gates.age(RULES.window_s * 1.1)
    await ended(one, "completed", "failed")
    await attempt(one)


async def test_attempt_that_says_nothing_of_the_provider_does_not_count(one: Gatekeeper) -> None:
    await ended(one, *FAILED * 4, *ABANDONED * 20)
    await attempt(one)
    await ended(one, "failed")
    assert (await denied(one)).reason == "open"


async def test_one_probe_goes_out_of_all_gateways(gates: Gates) -> None:
    gatekeepers = [gates.gatekeeper() for _ in range(4)]
    await open_breaker(gatekeepers[0])
    await gates.age(RULES.cooldown_s)
    begun = await asyncio.gather(
        *(gatekeepers[number % 4].begin("p", "m", 10) for number in range(80))
    )
    probes = [one for one in begun if isinstance(one, ProviderAttempt)]
    assert [probe.is_probe for probe in probes] == [True]
    assert {one.reason for one in begun if isinstance(one, Denied)} == {"probing"}


async def test_asking_says_what_a_beginning_would_and_takes_no_probe(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    assert await one.would_begin("p", "m", 10)
    await open_breaker(one)
    assert not await other.would_begin("p", "m", 10)
    await gates.age(RULES.cooldown_s)
    assert [await one.would_begin("p", "m", 10) for _ in range(3)] == [True] * 3
    assert (await attempt(other)).is_probe
    assert not await one.would_begin("p", "m", 10)


async def test_gateway_alone_asks_itself(away: Away, lonely: Gatekeeper) -> None:
    away.gone = True
    assert await lonely.would_begin("p", "m", 10)
    await open_breaker(lonely)
    assert not await lonely.would_begin("p", "m", 10)


async def test_probe_that_ends_well_closes_the_breaker(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    await open_breaker(one)
    await gates.age(RULES.cooldown_s)
    probe = await attempt(other)
    await probe.end("completed")
    assert [(await attempt(gatekeeper)).is_probe for gatekeeper in (one, other)] == [False, False]
    await ended(one, *FAILED * (RULES.failures_in_row - 1))
    await attempt(one)


async def test_probe_that_fails_in_mid_stream_opens_it_for_twice_as_long(
    one: Gatekeeper, gates: Gates
) -> None:
    await open_breaker(one)
    for times in (2, 4, 8):
        await gates.age(RULES.max_cooldown_s)
        await ended(one, "failed")
        refused = await denied(one)
        assert refused.reason == "open"
        assert gates.elapsed.short_of(refused.retry_after_s, times * RULES.cooldown_s)


async def test_cooldown_grows_no_longer_than_its_bound(one: Gatekeeper, gates: Gates) -> None:
    await open_breaker(one)
    for _ in range(12):
        await gates.age(RULES.max_cooldown_s * (1 + SPREAD))
        await ended(one, "failed")
    assert (await denied(one)).retry_after_s <= RULES.max_cooldown_s


@pytest.mark.parametrize(("dice", "factor"), [(0.0, 1 - SPREAD), (1.0, 1 + SPREAD)])
async def test_cooldown_is_jittered(gates: Gates, dice: float, factor: float) -> None:
    gatekeeper = gates.gatekeeper(dice=lambda: dice)
    await open_breaker(gatekeeper)
    refused = await denied(gatekeeper)
    assert gates.elapsed.short_of(refused.retry_after_s, RULES.cooldown_s * factor)


async def test_probe_that_says_nothing_leaves_its_place_to_another(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    await open_breaker(one)
    await gates.age(RULES.cooldown_s)
    async with await attempt(one):
        assert (await denied(other)).reason == "probing"
    assert (await attempt(other)).is_probe


async def test_probe_whose_gateway_died_blocks_for_as_long_as_its_lease(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    await open_breaker(one)
    await gates.age(RULES.cooldown_s)
    lost = await attempt(one)
    await gates.age(LEASE_S - 2)
    assert (await denied(other)).reason == "probing"
    await gates.age(2)
    assert (await attempt(other)).is_probe
    await lost.end("completed")
    assert (await denied(one)).reason == "probing"


async def test_attempts_from_before_neither_close_nor_prolong(
    one: Gatekeeper, gates: Gates
) -> None:
    before = [await attempt(one) for _ in range(20)]
    await open_breaker(one)
    for number, each in enumerate(before):
        await each.end("completed" if number % 2 else "failed")
    refused = await denied(one)
    assert (refused.reason, refused.retry_after_s <= RULES.cooldown_s) == ("open", True)
    await gates.age(RULES.cooldown_s)
    assert (await attempt(one)).is_probe


async def test_limit_that_is_reached_takes_no_probe(gates: Gates) -> None:
    gatekeeper = gates.gatekeeper(ProviderLimits(concurrent_requests=1))
    await open_breaker(gatekeeper)
    await gates.age(RULES.cooldown_s)
    running = await attempt(gatekeeper, model="n")
    assert (await denied(gatekeeper)).reason == "concurrent_requests"
    await running.end("completed")
    assert (await attempt(gatekeeper)).is_probe


async def test_provider_rests_for_as_long_as_it_asks(
    one: Gatekeeper, other: Gatekeeper, gates: Gates
) -> None:
    await ended(one, "throttled", retry_after_s=30.0)
    for model in ("m", "n"):
        refused = await denied(other, model=model)
        assert refused.reason == "resting"
        assert gates.elapsed.short_of(refused.retry_after_s, 30)
    await gates.age(30)
    await attempt(other)


async def test_provider_rests_no_longer_than_the_bound(one: Gatekeeper) -> None:
    await ended(one, "throttled", retry_after_s=86_400.0)
    assert (await denied(one)).retry_after_s <= RULES.max_cooldown_s


async def test_shorter_rest_does_not_cut_a_longer_one(one: Gatekeeper, gates: Gates) -> None:
    first, second = await attempt(one), await attempt(one)
    await first.end("throttled", retry_after_s=60.0)
    await second.end("throttled", retry_after_s=1.0)
    assert gates.elapsed.short_of((await denied(one)).retry_after_s, 60)


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
async def test_rest_that_nobody_asked_for_grows_with_each_refusal(
    one: Gatekeeper, gates: Gates, retry_after_s: float | None
) -> None:
    for times in (1, 2, 4):
        await ended(one, "throttled", retry_after_s=retry_after_s)
        refused = await denied(one)
        assert refused.reason == "resting"
        assert gates.elapsed.short_of(refused.retry_after_s, times * RULES.cooldown_s)
        await gates.age(refused.retry_after_s)
    await ended(one, "completed", "throttled")
    assert (await denied(one)).retry_after_s <= RULES.cooldown_s


async def test_refusals_of_one_burst_count_once(one: Gatekeeper, gates: Gates) -> None:
    burst = [await attempt(one) for _ in range(10)]
    for each in burst[:5]:
        await each.end("throttled")
    assert (await denied(one)).retry_after_s <= RULES.cooldown_s
    await gates.age(RULES.cooldown_s)
    for each in burst[5:]:
        await each.end("throttled")
    await attempt(one)


async def test_refusal_is_no_failure(one: Gatekeeper, gates: Gates) -> None:
    for _ in range(10):
        await ended(one, "throttled", retry_after_s=1.0)
        await gates.age(1)
    await attempt(one)


async def test_failure_that_asks_for_a_rest_gets_it(one: Gatekeeper) -> None:
    await ended(one, "failed", retry_after_s=20.0)
    assert (await denied(one)).reason == "resting"


async def test_only_the_first_end_counts(one: Gatekeeper) -> None:
    each = await attempt(one)
    for _ in range(RULES.failures_in_row):
        await each.end("failed")
    await attempt(one)


async def test_end_counts_although_its_caller_is_cancelled(one: Gatekeeper) -> None:
    for _ in range(RULES.failures_in_row):
        ending = asyncio.create_task((await attempt(one)).end("failed"))
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait({ending})
        assert ending.cancelled()
    await one.close()
    assert (await denied(one)).reason == "open"


class Away:
    """A Valkey that can be made unavailable."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self.gone = False

    async def run(self, script: str, *args: Any) -> Any:
        if self.gone:
            raise ValkeyUnavailable("taken away")
        return await self._valkey.run(script, *args)


@pytest.fixture
def away(valkey: Valkey) -> Away:
    return Away(valkey)


@pytest.fixture
def lonely(away: Away, valkey_prefix: str) -> Gatekeeper:
    return Gates(away, valkey_prefix).gatekeeper()


async def test_gateway_alone_opens_by_the_same_rules(away: Away, lonely: Gatekeeper) -> None:
    away.gone = True
    await ended(lonely, *FAILED * (RULES.failures_in_row - 1), *COMPLETED * 20)
    await open_breaker(lonely)
    assert await denied(lonely) == Denied("open", AWAY_S)
    await attempt(lonely, model="n")


async def test_gateway_alone_opens_at_a_rate_too(away: Away, lonely: Gatekeeper) -> None:
    away.gone = True
    await ended(lonely, *(COMPLETED + FAILED) * 5)
    assert (await denied(lonely)).reason == "open"


async def test_gateway_alone_keeps_to_what_it_heard_and_sends_no_probe(
    away: Away, lonely: Gatekeeper, one: Gatekeeper, gates: Gates
) -> None:
    await open_breaker(one)
    assert (await denied(lonely)).reason == "open"
    away.gone = True
    await gates.age(2 * RULES.cooldown_s)
    assert (await denied(lonely)).reason == "open"
    away.gone = False
    assert (await attempt(lonely)).is_probe


async def test_gateway_alone_lets_a_provider_rest(
    away: Away, lonely: Gatekeeper, one: Gatekeeper, gates: Gates
) -> None:
    await ended(one, "throttled", retry_after_s=30.0)
    assert (await denied(lonely)).reason == "resting"
    away.gone = True
    refused = await denied(lonely)
    assert refused.reason == "resting"
    assert gates.elapsed.short_of(refused.retry_after_s, 30)


async def test_breaker_that_opened_alone_follows_the_shared_one_again(
    away: Away, lonely: Gatekeeper
) -> None:
    away.gone = True
    await open_breaker(lonely)
    away.gone = False
    await attempt(lonely)
    away.gone = True
    await attempt(lonely)
