import asyncio
from typing import Any

import pytest

from serving.access.fresh_cache import MAX_AGE_S, RETRY_WAIT_S, TTL_S, FreshCache, Unannounced
from serving.domain.errors import StoreUnavailable
from serving.storage.errors import DatabaseUnavailable
from tests.serving.access.conftest import Clock
from tests.serving.live import eventually

Cache = FreshCache[str, None]


class FakeStore:
    """Answers when it is released; has no database."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.down = False

    async def find(self, key_id: str) -> None:
        self.asked.append(key_id)
        await self.open.wait()
        if self.down:
            raise DatabaseUnavailable("down")


def made(fake: FakeStore, **options: Any) -> Cache:
    options = {"changes": Unannounced()} | options
    return FreshCache(
        fake.find, unavailable="Try again soon.", subjects=lambda name, _: (name,), **options
    )


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture
def cache(fake: FakeStore, clock: Clock) -> Cache:
    return made(fake, clock=clock, max_entries=3)


async def test_answer_serves_until_it_is_too_old(cache: Cache, clock: Clock) -> None:
    clock.seconds = 100
    entry = await cache.read("a")
    clock.seconds = 100 + MAX_AGE_S - 0.01
    assert cache.fresh("a") is entry
    clock.seconds = 100 + MAX_AGE_S
    assert cache.fresh("a") is None


async def test_answer_past_its_time_is_asked_for_anew_and_nobody_waits(
    cache: Cache, fake: FakeStore, clock: Clock
) -> None:
    old = await cache.read("a")
    clock.seconds = TTL_S - 0.01
    assert (cache.fresh("a"), fake.asked) == (old, ["a"])
    clock.seconds = TTL_S
    assert [cache.fresh("a") for _ in range(3)] == [old] * 3
    assert await eventually(lambda: cache.fresh("a") is not old)
    assert fake.asked == ["a", "a"]


async def test_least_recently_used_answer_is_dropped(cache: Cache) -> None:
    for key_id in "abc":
        await cache.read(key_id)
    cache.fresh("a")
    await cache.read("d")
    assert [cache.fresh(key_id) is not None for key_id in "abcd"] == [True, False, True, True]


async def test_burst_makes_one_look_up_an_id(cache: Cache, fake: FakeStore) -> None:
    await asyncio.gather(*(cache.read(key_id) for key_id in "ab" * 100))
    assert sorted(fake.asked) == ["a", "b"]


async def test_waiter_that_goes_away_leaves_the_answer_to_the_others(
    cache: Cache, fake: FakeStore
) -> None:
    fake.open.clear()
    first, second = (asyncio.create_task(cache.read("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    fake.open.set()
    assert (await second).value is None
    assert fake.asked == ["a"]


async def test_answer_is_as_old_as_its_question(
    cache: Cache, fake: FakeStore, clock: Clock
) -> None:
    fake.open.clear()
    reading = asyncio.create_task(cache.read("a"))
    assert await eventually(lambda: fake.asked == ["a"])
    clock.seconds = TTL_S - 0.5
    fake.open.set()
    await reading
    clock.seconds = MAX_AGE_S
    assert cache.fresh("a") is None


async def test_answer_that_came_too_late_is_not_believed(
    cache: Cache, fake: FakeStore, clock: Clock
) -> None:
    fake.open.clear()
    reading = asyncio.create_task(cache.read("a"))
    assert await eventually(lambda: fake.asked == ["a"])
    clock.seconds = MAX_AGE_S
    fake.open.set()
    with pytest.raises(StoreUnavailable):
        await reading


async def test_old_answer_serves_while_the_store_is_down_and_no_longer(
    cache: Cache, fake: FakeStore, clock: Clock
) -> None:
    entry = await cache.read("a")
    fake.down = True
    clock.seconds = MAX_AGE_S - 0.01
    assert await cache.read("a") is entry
    clock.seconds = MAX_AGE_S
    with pytest.raises(StoreUnavailable):
        await cache.read("a")


async def test_store_that_failed_is_left_alone_for_a_moment(
    cache: Cache, fake: FakeStore, clock: Clock
) -> None:
    fake.down = True
    for key_id in "aab":
        with pytest.raises(StoreUnavailable):
            await cache.read(key_id)
    assert fake.asked == ["a"]
    fake.down = False
    clock.seconds = RETRY_WAIT_S
    await cache.read("b")
    assert fake.asked == ["a", "b"]


async def test_store_that_hangs_makes_nobody_wait_for_long(fake: FakeStore, clock: Clock) -> None:
    cache = made(fake, clock=clock, lookup_timeout_s=0.05)
    fake.open.clear()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(cache.read("a"), 30)


async def test_bug_in_the_store_is_not_taken_for_an_outage(clock: Clock) -> None:
    class Broken(FakeStore):
        async def find(self, key_id: str) -> None:
            raise ZeroDivisionError(key_id)

    cache = made(Broken(), clock=clock)
    with pytest.raises(ZeroDivisionError):
        await cache.read("a")
