"""No provider's limits are exceeded, whatever its gateways do; on both stores."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from serving.config.overflow import ProviderModelSettings, ProviderSettings
from serving.egress.limits.breaker import ProviderOutcome
from serving.egress.limits.gatekeeper import AWAY_S, LEASE_S, Gatekeeper, ProviderAttempt
from serving.egress.limits.provider_limits import Denied, ProviderLimits
from serving.storage.errors import ValkeyUnavailable
from tests.serving.egress.gates import Gates, attempt, denied, gates
from tests.serving.valkeys import names

__all__ = ["gates"]

WINDOW_S = 61.0
"""A minute of the provider, plus a second of transport."""


@dataclass(frozen=True)
class Told:
    """The remaining quota that a provider reports."""

    requests: int | None = None
    requests_reset_s: float | None = None
    tokens: int | None = None
    tokens_reset_s: float | None = None


async def test_requests_of_a_minute_are_shared_by_gateways(gates: Gates) -> None:
    limits = ProviderLimits(requests_per_minute=50)
    gatekeepers = gates.gatekeeper(limits), gates.gatekeeper(limits)
    begun = await asyncio.gather(
        *(gatekeepers[number % 2].begin("p", "m", 10) for number in range(200))
    )
    assert sum(isinstance(one, ProviderAttempt) for one in begun) == 50
    refused = [one for one in begun if isinstance(one, Denied)]
    assert {one.reason for one in refused} == {"requests_per_minute"}
    assert all(gates.elapsed.short_of(one.retry_after_s, WINDOW_S) for one in refused)


@pytest.mark.parametrize(
    "limits",
    [
        ProviderLimits(requests_per_minute=2),
        ProviderLimits(tokens_per_minute=20),
        ProviderLimits(concurrent_requests=2),
    ],
    ids=["requests", "tokens", "concurrent"],
)
async def test_asking_reserves_nothing(gates: Gates, limits: ProviderLimits) -> None:
    one = gates.gatekeeper(limits)
    for _ in range(2):
        assert [await one.would_begin("p", "m", 10) for _ in range(3)] == [True] * 3
        await attempt(one, tokens=10)
    assert not await one.would_begin("p", "m", 10)


async def test_window_of_requests_moves(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(requests_per_minute=2))
    await attempt(one)
    await gates.age(40)
    await attempt(one)
    assert gates.elapsed.short_of((await denied(one)).retry_after_s, 21)
    await gates.age(21)
    await attempt(one)
    assert gates.elapsed.short_of((await denied(one)).retry_after_s, 40)


async def test_tokens_are_reserved_and_what_was_not_used_is_free(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(tokens_per_minute=100))
    first = await attempt(one, tokens=80)
    assert (await denied(one, tokens=21)).reason == "tokens_per_minute"
    await first.end("completed", tokens_used=15)
    await attempt(one, tokens=85)
    assert (await denied(one, tokens=1)).reason == "tokens_per_minute"


async def test_more_tokens_than_reserved_count_too(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(tokens_per_minute=100))
    await (await attempt(one, tokens=10)).end("completed", tokens_used=90)
    assert (await denied(one, tokens=11)).reason == "tokens_per_minute"


async def test_tokens_of_an_attempt_whose_use_is_not_known_stay_counted(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(tokens_per_minute=100))
    await (await attempt(one, tokens=80)).end("failed")
    assert (await denied(one, tokens=21)).reason == "tokens_per_minute"


async def test_wait_is_until_enough_tokens_are_free(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(tokens_per_minute=100))
    await attempt(one, tokens=10)
    await gates.age(40)
    await attempt(one, tokens=90)
    little, much = [await denied(one, tokens=tokens) for tokens in (10, 11)]
    assert gates.elapsed.short_of(little.retry_after_s, 21)
    assert gates.elapsed.short_of(much.retry_after_s, 61)


async def test_late_settlement_leaves_the_next_window_alone(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(tokens_per_minute=100))
    long = await attempt(one, tokens=100)
    await gates.age(WINDOW_S)
    await attempt(one, tokens=60)
    await long.end("completed", tokens_used=5)
    await attempt(one, tokens=40)
    assert (await denied(one, tokens=1)).reason == "tokens_per_minute"


async def test_place_is_free_when_its_attempt_ends(gates: Gates) -> None:
    limits = ProviderLimits(concurrent_requests=1)
    one, other = gates.gatekeeper(limits), gates.gatekeeper(limits)
    async with await attempt(one):
        assert (await denied(other)).reason == "concurrent_requests"
    await attempt(other)


async def test_place_of_a_gateway_that_died_is_free_after_its_lease(gates: Gates) -> None:
    limits = ProviderLimits(concurrent_requests=1)
    dead, other = gates.gatekeeper(limits), gates.gatekeeper(limits)
    await attempt(dead)
    await gates.age(LEASE_S - 2)
    assert (await denied(other)).reason == "concurrent_requests"
    await gates.age(2)
    await attempt(other)


async def test_place_of_a_gateway_that_is_heard_of_is_kept(gates: Gates) -> None:
    limits = ProviderLimits(concurrent_requests=1)
    quiet = gates.gatekeeper(limits, lease_s=1.5, heartbeat_s=0.05)
    other = gates.gatekeeper(limits)
    quiet.start()
    await attempt(quiet)
    await asyncio.sleep(2.0)
    assert (await denied(other)).reason == "concurrent_requests"


async def test_place_is_held_again_after_valkey_lost_everything(gates: Gates) -> None:
    limits = ProviderLimits(concurrent_requests=1)
    one, other = gates.gatekeeper(limits, heartbeat_s=0.05), gates.gatekeeper(limits)
    one.start()
    await attempt(one)
    for name in await names(gates.valkey, gates.prefix):
        await gates.valkey.command("DEL", name)
    async with asyncio.timeout(30):
        while await gates.valkey.command("TTL", f"{gates.prefix}open:p") <= 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await denied(other)).reason == "concurrent_requests"


async def test_limits_are_of_a_provider_and_all_of_its_models(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(requests_per_minute=1))
    await attempt(one, model="m")
    assert (await denied(one, model="n")).reason == "requests_per_minute"
    await attempt(one, provider="q")


async def test_refusal_takes_nothing(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(requests_per_minute=2, tokens_per_minute=100))
    for _ in range(5):
        await denied(one, tokens=101)
    await attempt(one, tokens=100)


async def test_less_than_the_limit_left_by_the_provider_counts_at_once(gates: Gates) -> None:
    limits = ProviderLimits(requests_per_minute=100)
    one, other = gates.gatekeeper(limits), gates.gatekeeper(limits)
    first = await attempt(one)
    first.hear(Told(requests=2, requests_reset_s=20.0))
    await one.close()
    await attempt(other)
    await attempt(other)
    refused = await denied(one)
    assert refused.reason == "requests_left"
    assert gates.elapsed.short_of(refused.retry_after_s, 20)
    await gates.age(20)
    await attempt(one)


async def test_tokens_left_count_where_no_limit_is_configured(gates: Gates) -> None:
    one = gates.gatekeeper()
    (await attempt(one)).hear(Told(tokens=100, tokens_reset_s=20.0))
    await one.close()
    await attempt(one, tokens=60)
    assert (await denied(one, tokens=41)).reason == "tokens_left"
    await attempt(one, tokens=40)


async def test_what_began_before_the_provider_told_is_taken_off(gates: Gates) -> None:
    """The provider may not have counted later requests and unanswered ones."""
    one = gates.gatekeeper()
    await attempt(one)
    telling = await attempt(one)
    await attempt(one)
    telling.hear(Told(requests=4, requests_reset_s=20.0))
    await one.close()
    assert [isinstance(await one.begin("p", "m", 1), ProviderAttempt) for _ in range(3)] == [
        True,
        True,
        False,
    ]


async def test_attempt_that_was_heard_of_is_not_taken_off_again(gates: Gates) -> None:
    one = gates.gatekeeper()
    streams = [await attempt(one) for _ in range(5)]
    for left, stream in enumerate(reversed(streams), 5):
        stream.hear(Told(requests=left, requests_reset_s=20.0))
        await one.close()
        await gates.age(0.01)
    telling = await attempt(one)
    telling.hear(Told(requests=1, requests_reset_s=20.0))
    await one.close()
    await attempt(one)
    assert (await denied(one)).reason == "requests_left"


async def test_word_that_comes_late_does_not_bring_back_what_was_used_since(gates: Gates) -> None:
    one = gates.gatekeeper()
    slow = await attempt(one, tokens=30)
    await gates.age(0.01)
    (await attempt(one, tokens=40)).hear(Told(tokens=60, tokens_reset_s=20.0))
    await one.close()
    slow.hear(Told(tokens=100, tokens_reset_s=20.0))
    await one.close()
    assert (await denied(one, tokens=61)).reason == "tokens_left"
    await attempt(one, tokens=60)


async def test_what_is_left_is_believed_for_a_bounded_time(gates: Gates) -> None:
    one = gates.gatekeeper()
    (await attempt(one)).hear(Told(requests=0, requests_reset_s=86_400.0))
    await one.close()
    assert gates.elapsed.short_of((await denied(one)).retry_after_s, 300)


async def test_provider_that_does_not_tell_the_reset_has_one_in_a_minute(gates: Gates) -> None:
    one = gates.gatekeeper()
    (await attempt(one)).hear(Told(requests=0))
    await one.close()
    assert gates.elapsed.short_of((await denied(one)).retry_after_s, 60)


async def test_nothing_told_changes_nothing(gates: Gates) -> None:
    one = gates.gatekeeper()
    (await attempt(one)).hear(Told())
    await one.close()
    await attempt(one)


async def test_every_key_expires(gates: Gates) -> None:
    one = gates.gatekeeper(ProviderLimits(requests_per_minute=100))
    outcomes: list[ProviderOutcome] = ["completed", "failed", "throttled"]
    for outcome in outcomes:
        begun = await attempt(one)
        begun.hear(Told(requests=9, tokens=900))
        await one.close()
        await begun.end(outcome)
    kept = await names(gates.valkey, gates.prefix)
    lasting = {name for name in kept if await gates.valkey.command("TTL", name) == -1}
    assert lasting == {f"{gates.prefix}clock".encode()}


def test_limits_are_those_of_the_settings() -> None:
    settings = ProviderSettings(
        name="p",
        kind="openai",
        api_key=SecretStr("sk-p"),
        models=(ProviderModelSettings(model="m", stands_in_for=("chat",), context_tokens=1000),),
        requests_per_minute=1,
        tokens_per_minute=2,
        concurrent_requests=3,
    )
    assert ProviderLimits.of(settings).bounds == (1, 2, 3)


class Gone:
    async def run(self, *_: Any) -> Any:
        raise ValkeyUnavailable("away")


async def test_provider_with_limits_gets_nothing_while_nobody_can_count() -> None:
    limited = Gates(Gone(), "").gatekeeper(ProviderLimits(requests_per_minute=100))
    assert await denied(limited) == Denied("unshared", AWAY_S)
    await attempt(limited, provider="q")


REQUESTS = 500
LIMITS = ProviderLimits(requests_per_minute=100, tokens_per_minute=30_000, concurrent_requests=12)


class Provider:
    """A provider that enforces its limits over a moving minute."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._aged_s = 0.0
        self._came: list[tuple[float, int]] = []
        self._running = 0
        self.served = 0
        self.refused = 0

    async def age(self, seconds: float) -> None:
        await self._gates.age(seconds)
        self._aged_s += seconds

    @asynccontextmanager
    async def request(self, tokens: int) -> AsyncIterator[Told | None]:
        """Run a request; yields the remaining quota, or None for 429."""
        now = time.monotonic() + self._aged_s
        self._came = [one for one in self._came if one[0] > now - 60.0]
        used = sum(tokens for _, tokens in self._came)
        if len(self._came) >= 100 or used + tokens > 30_000 or self._running >= 12:
            self.refused += 1
            yield None
            return
        self.served += 1
        self._came.append((now, tokens))
        self._running += 1
        try:
            yield Told(100 - len(self._came), 60.0, 30_000 - used - tokens, 60.0)
        finally:
            self._running -= 1


async def send(gatekeeper: Gatekeeper, provider: Provider, dice: random.Random) -> float | None:
    """Try one request; return None if it was sent, else the time when it may be."""
    tokens = dice.randint(50, 550)
    begun = await gatekeeper.begin("p", "m", tokens + dice.randint(0, 200))
    if isinstance(begun, Denied):
        return begun.retry_after_s
    await asyncio.sleep(dice.random() / 200)  # On the way.
    async with provider.request(tokens) as told:
        if told is not None:
            begun.hear(told)
            await asyncio.sleep(dice.random() / 100)
    await begun.end("throttled" if told is None else "completed", tokens_used=tokens)
    return None


async def flood(gatekeepers: list[Gatekeeper], provider: Provider) -> None:
    """Send requests from all gateways at once until that many were sent, in simulated minutes."""
    dice = random.Random(5)  # noqa: S311 - No secret.
    sent = 0
    async with asyncio.timeout(60):
        while sent < REQUESTS:
            waits_s = await asyncio.gather(
                *(send(gatekeepers[n % len(gatekeepers)], provider, dice) for n in range(20))
            )
            sent += waits_s.count(None)
            told = [wait_s for wait_s in waits_s if wait_s is not None]
            if len(told) == len(waits_s):
                await provider.age(min(told))
            else:
                await provider.age(dice.random())


@pytest.mark.parametrize("limits", [LIMITS, ProviderLimits(concurrent_requests=12)])
async def test_provider_refuses_none_of_500_requests_of_two_gateways(
    gates: Gates, limits: ProviderLimits
) -> None:
    """Gateways use the configured limits, or what the provider reports if none are configured."""
    provider = Provider(gates)
    await flood([gates.gatekeeper(limits), gates.gatekeeper(limits)], provider)
    assert (provider.refused, provider.served >= REQUESTS) == (0, True)


async def test_provider_refuses_many_where_gateways_share_nothing(gates: Gates) -> None:
    """This shows that the test above can fail."""
    provider = Provider(gates)
    apart = [gates.gatekeeper(LIMITS, prefix=f"{gates.prefix}{name}:") for name in "ab"]
    dice = random.Random(5)  # noqa: S311 - No secret.
    for number in range(150):
        await send(apart[number % 2], provider, dice)
    assert provider.refused > 0
