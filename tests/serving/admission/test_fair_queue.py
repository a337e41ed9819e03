import asyncio
import functools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from statistics import quantiles
from typing import Any, ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.admission.fair_queue import (
    BACKGROUND_TURN,
    MAX_IDLE_TENANTS,
    OVERLOADED_AFTER_S,
    RECENT_S,
    FairQueue,
)
from serving.admission.pace import STALE_S
from serving.admission.slots import (
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    QueueFull,
    QueueOverloaded,
    QueueTimeout,
)
from tests.calls import calls
from tests.serving.virtual_time import run

P = ParamSpec("P")


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def inner(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return inner


def now() -> float:
    return asyncio.get_running_loop().time()


def fair_queue(slots: int, *, max_waiting: int = 1000, max_wait_s: float = 1000.0) -> FairQueue:
    return FairQueue(slots=slots, max_waiting=max_waiting, max_wait_s=max_wait_s, clock=now)


async def settle() -> None:
    """Run everything that is ready without advancing time."""
    for _ in range(6):
        await asyncio.sleep(0)


class Client:
    """Sends requests, which run until told to end, and records their turns."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.turns: list[str] = []
        self.requests: list[Request] = []

    async def send(self, tenant: str, count: int = 1, **options: Any) -> "list[Request]":
        sent = [Request(self, tenant, options) for _ in range(count)]
        self.requests += sent
        await settle()
        return sent

    async def serve(self, count: int, spend: Callable[[str], float] | None = None) -> list[str]:
        """End the oldest running request that many times; return the turns that follow."""
        before = len(self.turns)
        for _ in range(count):
            oldest = next(request for request in self.requests if request.runs)
            if spend:
                oldest.spent = spend(oldest.tenant)
            await oldest.finish()
        return self.turns[before:]

    def running(self, tenant: str) -> int:
        return sum(request.runs for request in self.requests if request.tenant == tenant)

    async def close(self) -> None:
        for request in self.requests:
            request.task.cancel()
        await asyncio.gather(*(request.task for request in self.requests), return_exceptions=True)


class Request:
    def __init__(self, client: Client, tenant: str, options: dict[str, Any]) -> None:
        self.tenant = tenant
        self.options = options
        self.end = asyncio.Event()
        self.waited_s: float | None = None
        self.spent: float | None = None
        self.task = asyncio.create_task(self._run(client))

    @property
    def runs(self) -> bool:
        return self.waited_s is not None and not self.task.done()

    @property
    def refusal(self) -> BaseException | None:
        return self.task.exception() if self.task.done() else None

    async def _run(self, client: Client) -> None:
        async with client.queue.slot(self.tenant, **self.options) as slot:
            client.turns.append(self.tenant)
            self.waited_s = slot.waited_s
            await self.end.wait()
            if self.spent is not None:
                slot.spend(self.spent)

    async def finish(self) -> None:
        self.end.set()
        await self.task
        await settle()

    async def hang_up(self) -> None:
        self.task.cancel()
        await settle()


@asynccontextmanager
async def client_of(queue: FairQueue) -> AsyncIterator[Client]:
    client = Client(queue)
    try:
        yield client
    finally:
        await client.close()


# Entering


@virtual
async def test_free_slot_is_entered_without_giving_up_the_turn_of_the_loop() -> None:
    queue = fair_queue(1)
    turn = asyncio.create_task(asyncio.sleep(0))
    async with queue.slot("a") as slot:
        assert (turn.done(), slot.waited_s, queue.running, queue.waiting) == (False, 0.0, 1, 0)
    assert queue.running == 0
    await turn


@virtual
async def test_free_slot_costs_a_few_calls_however_many_tenants_are_known() -> None:
    queue = fair_queue(64)

    async def use(tenant: str) -> None:
        async with queue.slot(tenant, cost=100.0) as slot:
            slot.spend(50.0)

    await use("a")
    with calls() as alone:
        await use("a")
    for number in range(2000):
        await use(f"tenant {number}")
    with calls() as among_many:
        await use("a")
    assert among_many.count < 60  # Measured 28.
    assert abs(among_many.count - alone.count) < 10


@virtual
async def test_scope_that_fails_releases_its_slot() -> None:
    queue = fair_queue(1)
    with suppress(ZeroDivisionError):
        async with queue.slot("a"):
            raise ZeroDivisionError
    assert queue.running == 0


@virtual
async def test_waiter_is_told_how_long_it_waited() -> None:
    async with client_of(fair_queue(1)) as client:
        first, second = await client.send("a", 2)
        await asyncio.sleep(5)
        await first.finish()
        assert (first.waited_s, second.waited_s) == (0.0, 5.0)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weight_is_above_zero(weight: float) -> None:
    with pytest.raises(ValueError, match="weight is above 0"):
        fair_queue(1).slot("a", weight=weight)


def test_queue_has_a_slot() -> None:
    with pytest.raises(ValueError, match="slots is at least 1"):
        fair_queue(0)


# Fairness


@virtual
async def test_turns_within_a_tenant_follow_the_order_of_arrival() -> None:
    async with client_of(fair_queue(1)) as client:
        sent = await client.send("a", 10)
        for request in sent:
            assert request.runs
            await request.finish()


@virtual
async def test_tenant_with_few_requests_does_not_wait_for_one_with_many() -> None:
    async with client_of(fair_queue(1)) as client:
        await client.send("noisy", 100)
        await client.send("quiet", 2)
        assert "".join(turn[0] for turn in await client.serve(4)) in {"qnqn", "qnnq", "nqnq"}


@virtual
async def test_weights_share_turns_in_proportion() -> None:
    async with client_of(fair_queue(8)) as client:
        await client.send("light", 200, weight=1.0)
        await client.send("heavy", 200, weight=3.0)
        await client.serve(40)
        assert Counter(await client.serve(160)) == {"heavy": 120, "light": 40}


@virtual
async def test_tokens_are_shared_and_not_requests() -> None:
    tokens = {"long": 1000.0, "short": 100.0}
    async with client_of(fair_queue(4)) as client:
        for tenant, cost in tokens.items():
            await client.send(tenant, 500, cost=cost)
        turns = Counter(await client.serve(220))
        served = {tenant: turns[tenant] * cost for tenant, cost in tokens.items()}
        assert served["short"] == pytest.approx(served["long"], rel=0.25)


@virtual
async def test_real_cost_counts_where_the_estimate_was_wrong() -> None:
    real = {"long": 1000.0, "short": 100.0}
    async with client_of(fair_queue(1)) as client:
        for tenant in real:
            await client.send(tenant, 500, cost=10.0)
        turns = Counter(await client.serve(220, real.__getitem__))
        assert turns["short"] == pytest.approx(10 * turns["long"], rel=0.1)


@virtual
async def test_estimate_counts_while_its_request_runs() -> None:
    async with client_of(fair_queue(8)) as client:
        await client.send("long", 4, cost=0.0)
        await client.send("short", 4, cost=0.0)
        await client.send("long", 100, cost=1000.0)
        await client.send("short", 100, cost=100.0)
        await client.serve(8)
        assert (client.running("long"), client.running("short")) == (1, 7)


@virtual
async def test_weights_count_while_requests_run() -> None:
    async with client_of(fair_queue(8)) as client:
        for tenant, weight in (("light", 1.0), ("heavy", 3.0)):
            await client.send(tenant, 4, weight=weight, cost=0.0)
        for tenant, weight in (("light", 1.0), ("heavy", 3.0)):
            await client.send(tenant, 50, weight=weight)
        await client.serve(8)
        assert (client.running("light"), client.running("heavy")) == (2, 6)


@virtual
async def test_idleness_banks_nothing() -> None:
    async with client_of(fair_queue(1)) as client:
        await client.send("idle")
        await client.send("busy", 200)
        await client.serve(101)
        await client.send("idle", 50)
        turns = Counter(await client.serve(20))
        assert abs(turns["idle"] - turns["busy"]) <= 2


@virtual
async def test_one_long_request_banks_nothing() -> None:
    async with client_of(fair_queue(2)) as client:
        (long,) = await client.send("long")
        for _ in range(100):
            (short,) = await client.send("busy")
            await short.finish()
        await client.send("long", 50)
        await client.send("busy", 50)
        client.requests.remove(long)  # It goes on.
        client.requests.append(long)
        turns = Counter(await client.serve(20))
        assert abs(turns["long"] - turns["busy"]) <= 2


@virtual
async def test_estimates_far_too_high_are_no_debt_of_a_newcomer() -> None:
    async with client_of(fair_queue(4)) as client:
        await client.send("noisy", 100, cost=4000.0)
        await client.send("quiet", 10, cost=10.0)
        turns = await client.serve(12, {"noisy": 10.0, "quiet": 10.0}.__getitem__)
        assert turns.count("quiet") >= 5


@virtual
async def test_memory_does_not_grow_with_tenants_that_left() -> None:
    queue = fair_queue(2)
    for number in range(2 * MAX_IDLE_TENANTS):
        async with queue.slot(str(number), weight=0.1):
            pass
    assert len(queue._accounts) <= MAX_IDLE_TENANTS + 1
    await asyncio.sleep(RECENT_S)
    async with queue.slot("last", weight=0.1):
        assert (list(queue._accounts), len(queue._idle), queue._weights) == (["last"], 0, 0.1)


@virtual
async def test_memory_does_not_grow_with_tenants_that_were_pushed_out_or_hung_up() -> None:
    async with client_of(fair_queue(1, max_waiting=1)) as client:
        await client.send("running")
        await client.send("pushed out")
        (waiter,) = await client.send("hung up")
        await waiter.hang_up()
        await asyncio.sleep(RECENT_S)
        await client.send("last")
        assert list(client.queue._accounts) == ["running", "last"]


@virtual
async def test_tenant_is_remembered_for_as_long_as_it_waits() -> None:
    async with client_of(fair_queue(1)) as client:
        await (await client.send("waiting"))[0].finish()
        await client.send("running")
        await client.send("waiting")
        await asyncio.sleep(RECENT_S)
        await client.send("last")
        assert set(client.queue._accounts) == {"running", "waiting", "last"}


# Priorities


@virtual
async def test_interactive_requests_go_before_background_ones() -> None:
    async with client_of(fair_queue(1)) as client:
        await client.send("a", 1)
        await client.send("batch", 3, priority="background")
        await client.send("chat", 3)
        assert await client.serve(6) == ["chat"] * 3 + ["batch"] * 3


@virtual
async def test_background_gets_its_turn_while_interactive_requests_wait() -> None:
    async with client_of(fair_queue(1)) as client:
        await client.send("chat", 100)
        await client.send("batch", 100, priority="background")
        turns = await client.serve(4 * BACKGROUND_TURN)
        places = [place for place, turn in enumerate(turns, 1) if turn == "batch"]
        assert places == [BACKGROUND_TURN * turn for turn in (1, 2, 3, 4)]


@virtual
async def test_background_gets_its_turn_although_no_interactive_request_ever_waits() -> None:
    async with client_of(fair_queue(8)) as client:
        chats = await client.send("chat", 8)
        (batch,) = await client.send("batch", priority="background")
        for turn in range(1, BACKGROUND_TURN):
            assert (turn, batch.runs) == (turn, False)
            await chats.pop(0).finish()
            chats += await client.send("chat")
            assert chats[-1].runs
        await chats.pop(0).finish()
        assert batch.runs


@virtual
async def test_background_turn_needs_no_release() -> None:
    async with client_of(fair_queue(16)) as client:
        chats = await client.send("chat", 16)
        (batch,) = await client.send("batch", priority="background")
        for _ in range(BACKGROUND_TURN - 2):
            await chats.pop(0).finish()
            chats += await client.send("chat")
        for _ in range(2):
            await chats.pop(0).finish()
        assert not batch.runs
        await client.send("chat")
        assert batch.runs


@virtual
async def test_background_turns_are_shared_fairly() -> None:
    async with client_of(fair_queue(1)) as client:
        await client.send("a")
        await client.send("noisy", 50, priority="background")
        await client.send("quiet", 2, priority="background")
        assert Counter(await client.serve(4)) == {"noisy": 2, "quiet": 2}


# Holding back


@virtual
async def test_tenant_alone_uses_all_slots() -> None:
    async with client_of(fair_queue(16)) as client:
        await client.send("a", 20)
        assert client.running("a") == 16


@pytest.mark.parametrize(("slots", "held_back"), [(1, 0), (2, 1), (8, 1), (16, 2), (24, 3)])
def test_slots_are_held_back_for_a_tenant_seen_lately(slots: int, held_back: int) -> None:
    @virtual
    async def test() -> None:
        async with client_of(fair_queue(slots)) as client:
            await (await client.send("quiet"))[0].finish()
            await client.send("noisy", slots + 4)
            assert client.running("noisy") == slots - held_back
            await client.send("quiet", held_back)
            assert client.running("quiet") == held_back

    test()


@virtual
async def test_tenant_below_its_share_may_take_a_slot_held_back() -> None:
    async with client_of(fair_queue(8)) as client:
        await (await client.send("quiet", weight=1.0))[0].finish()
        await client.send("heavy", 9, weight=100.0)
        assert client.running("heavy") == 8


@virtual
async def test_nothing_is_held_back_for_tenants_that_wait() -> None:
    async with client_of(fair_queue(8)) as client:
        await client.send("first", 50)
        await client.send("second", 50)
        await client.serve(20)
        assert client.queue.running == 8


@virtual
async def test_waiters_run_once_the_other_tenant_is_no_longer_expected() -> None:
    async with client_of(fair_queue(8)) as client:
        await (await client.send("quiet"))[0].finish()
        await asyncio.sleep(10)
        *_, held = await client.send("noisy", 8)
        assert not held.runs
        await asyncio.sleep(RECENT_S - 10 - 0.01)
        assert not held.runs
        await asyncio.sleep(0.02)
        assert held.waited_s == pytest.approx(RECENT_S - 10)


@virtual
async def test_slot_is_held_back_for_as_long_as_any_other_tenant_is_expected() -> None:
    async with client_of(fair_queue(8)) as client:
        await (await client.send("first"))[0].finish()
        *_, held = await client.send("noisy", 8)
        await asyncio.sleep(30)
        await (await client.send("second"))[0].finish()
        await asyncio.sleep(RECENT_S - 0.01)
        assert not held.runs
        await asyncio.sleep(0.02)
        assert held.runs


@virtual
async def test_background_work_runs_in_slots_held_back_only_while_its_tenant_is_alone() -> None:
    async with client_of(fair_queue(8)) as client:
        await client.send("batch", 8, priority="background")
        assert client.running("batch") == 8
    async with client_of(fair_queue(8)) as client:
        (chat,) = await client.send("chat")
        await client.send("batch", 7, priority="background", weight=100.0)
        assert client.running("batch") == 6
        await chat.finish()
        assert client.running("batch") == 7
        (held,) = await client.send("batch", priority="background", weight=100.0)
        await asyncio.sleep(RECENT_S + 0.01)
        assert held.runs


@virtual
async def test_tenant_is_expected_for_as_long_as_it_runs() -> None:
    async with client_of(fair_queue(8)) as client:
        await (await client.send("quiet"))[0].finish()
        await client.send("quiet")
        await asyncio.sleep(RECENT_S + 1)
        await client.send("noisy", 8)
        assert client.running("noisy") == 6


@virtual
async def test_tenant_that_was_refused_is_expected_back() -> None:
    async with client_of(fair_queue(8, max_waiting=0)) as client:
        await (await client.send("quiet"))[0].finish()
        await client.send("noisy", 7)
        await asyncio.sleep(RECENT_S - 1)
        await client.send("quiet", priority="background")
        await asyncio.sleep(2)
        (held,) = await client.send("noisy")
        assert isinstance(held.refusal, QueueFull)


@virtual
async def test_slot_held_back_is_free_for_others_at_a_full_queue() -> None:
    async with client_of(fair_queue(8, max_waiting=1)) as client:
        await (await client.send("quiet"))[0].finish()
        await client.send("noisy", 8)
        (quiet,) = await client.send("quiet")
        assert (client.queue.waiting, quiet.runs) == (1, True)


# Bounds


@virtual
async def test_request_beyond_the_room_is_refused_at_once() -> None:
    async with client_of(fair_queue(1, max_waiting=2)) as client:
        *_, refused = await client.send("a", 4)
        assert isinstance(refused.refusal, QueueFull)
        assert client.queue.waiting == 2


@virtual
async def test_queue_without_room_lets_nobody_wait() -> None:
    async with client_of(fair_queue(2, max_waiting=0)) as client:
        await client.send("a", 2)
        (refused,) = await client.send("b")
        assert isinstance(refused.refusal, QueueFull)


@virtual
async def test_tenant_with_fewer_waiting_pushes_out_the_newest_of_the_noisiest() -> None:
    async with client_of(fair_queue(1, max_waiting=5)) as client:
        _, *noisy = await client.send("noisy", 4)
        await client.send("other", 2)
        (quiet,) = await client.send("quiet")
        assert [isinstance(each.refusal, QueueFull) for each in noisy] == [False, False, True]
        assert (quiet.refusal, client.queue.waiting) == (None, 5)


@virtual
async def test_background_work_is_pushed_out_first() -> None:
    async with client_of(fair_queue(1, max_waiting=3)) as client:
        await client.send("noisy")
        (batch,) = await client.send("noisy", priority="background")
        chats = await client.send("noisy", 2)
        await client.send("quiet")
        assert isinstance(batch.refusal, QueueFull)
        assert [chat.refusal for chat in chats] == [None, None]


@virtual
async def test_tenant_with_as_many_waiting_pushes_nobody_out() -> None:
    async with client_of(fair_queue(1, max_waiting=4)) as client:
        await client.send("first", 3)
        await client.send("second", 2)
        (refused,) = await client.send("second")
        assert isinstance(refused.refusal, QueueFull)


async def paced(client: Client, interval_s: float) -> None:
    """Let the queue see that a slot becomes free at this interval."""
    (running,) = await client.send("pace")
    for _ in range(20):
        (following,) = await client.send("pace")
        await asyncio.sleep(interval_s)
        await running.finish()
        running = following
    client.requests = [running]


@virtual
async def test_prediction_counts_those_ahead_times_the_interval_of_releases() -> None:
    async with client_of(fair_queue(1)) as client:
        await paced(client, 2.0)
        assert client.queue.predicted_wait_s() == pytest.approx(2.0)
        await client.send("a", 4)
        assert client.queue.predicted_wait_s() == pytest.approx(10.0)


@virtual
async def test_wait_predicted_over_the_bound_is_refused_at_once() -> None:
    async with client_of(fair_queue(1, max_wait_s=9.0)) as client:
        await paced(client, 2.0)
        *waiting, refused = await client.send("a", 5)
        assert [each.refusal for each in waiting] == [None] * 4
        assert isinstance(refused.refusal, QueueFull)
        assert refused.refusal.retry_after_s == pytest.approx(10.0)


@virtual
async def test_wait_predicted_over_the_time_of_the_request_is_refused_at_once() -> None:
    async with client_of(fair_queue(1)) as client:
        await paced(client, 2.0)
        await client.send("a", 4)
        (refused,) = await client.send("a", timeout_s=9.0)
        assert isinstance(refused.refusal, QueueFull)


@virtual
async def test_prediction_of_a_quiet_tenant_leaves_out_whom_it_goes_before() -> None:
    async with client_of(fair_queue(1, max_wait_s=9.0)) as client:
        await paced(client, 2.0)
        await client.send("noisy", 5)
        (quiet,) = await client.send("quiet")
        assert quiet.refusal is None


@virtual
async def test_prediction_of_background_work_counts_interactive_requests() -> None:
    async with client_of(fair_queue(1, max_wait_s=9.0)) as client:
        await paced(client, 2.0)
        await client.send("chat", 4)
        (batch,) = await client.send("batch", priority="background")
        assert isinstance(batch.refusal, QueueFull)


@virtual
async def test_first_in_line_is_not_refused_however_long_the_prediction() -> None:
    async with client_of(fair_queue(1, max_wait_s=15.0)) as client:
        await paced(client, 10.0)
        await asyncio.sleep(40)
        first, second = await client.send("a", 2)
        assert (first.refusal, type(second.refusal)) == (None, QueueFull)


@virtual
async def test_stall_counts_from_its_beginning() -> None:
    async with client_of(fair_queue(1)) as client:
        await paced(client, 2.0)
        await asyncio.sleep(20)
        await client.send("a")
        assert client.queue.predicted_wait_s() == pytest.approx(22.0)


@virtual
async def test_pace_is_measured_while_a_slot_is_held_back() -> None:
    async with client_of(fair_queue(2)) as client:
        await (await client.send("quiet"))[0].finish()
        await client.send("noisy", 3)
        await asyncio.sleep(2)
        await client.serve(1)
        await asyncio.sleep(20)
        assert (client.queue.running, client.queue.predicted_wait_s()) == (1, 22.0)


@virtual
async def test_time_without_demand_says_nothing_about_the_pace() -> None:
    async with client_of(fair_queue(2, max_wait_s=5.0)) as client:
        for _ in range(10):
            (rare,) = await client.send("a")
            await asyncio.sleep(30)
            await rare.finish()
        sent = await client.send("a", 50)
        assert [each.refusal for each in sent] == [None] * 50


@virtual
async def test_old_pace_is_forgotten_after_a_time_without_demand() -> None:
    async with client_of(fair_queue(1, max_wait_s=5.0)) as client:
        await paced(client, 4.0)
        await client.serve(1)
        await asyncio.sleep(STALE_S + 1)
        sent = await client.send("a", 50)
        assert [each.refusal for each in sent] == [None] * 50


@pytest.mark.parametrize(
    ("predicted_s", "told_s"), [(0.0, MIN_RETRY_AFTER_S), (7.5, 7.5), (9e9, MAX_RETRY_AFTER_S)]
)
def test_retry_after_is_the_prediction_within_bounds(predicted_s: float, told_s: float) -> None:
    assert QueueFull(predicted_s).retry_after_s == told_s


# Leaving


@pytest.mark.parametrize(("max_wait_s", "timeout_s"), [(5.0, None), (5.0, 60.0), (60.0, 5.0)])
def test_waiter_gives_up_at_the_earlier_bound(max_wait_s: float, timeout_s: float | None) -> None:
    @virtual
    async def test() -> None:
        async with client_of(fair_queue(1, max_wait_s=max_wait_s)) as client:
            _, waiter = await client.send("a", 2, timeout_s=timeout_s)
            await asyncio.sleep(4.99)
            assert not waiter.task.done()
            await asyncio.sleep(0.02)
            assert isinstance(waiter.refusal, QueueTimeout)
            assert client.queue.waiting == 0

    test()


@virtual
async def test_waiter_that_hangs_up_frees_its_place_at_once() -> None:
    async with client_of(fair_queue(1, max_waiting=1)) as client:
        _, waiter = await client.send("a", 2)
        await waiter.hang_up()
        assert client.queue.waiting == 0
        (following,) = await client.send("b")
        assert following.refusal is None


@virtual
async def test_slot_passes_over_a_waiter_cancelled_just_before() -> None:
    async with client_of(fair_queue(1)) as client:
        first, second, third = await client.send("a", 3)
        second.task.cancel()
        await first.finish()
        assert (second.task.cancelled(), third.runs, client.queue.waiting) == (True, True, 0)


@virtual
async def test_slot_of_a_waiter_cancelled_just_after_goes_to_the_next() -> None:
    async with client_of(fair_queue(1)) as client:
        first, second, third = await client.send("a", 3)
        first.end.set()
        await asyncio.sleep(0)
        assert (client.queue.waiting, second.runs) == (1, False)
        second.task.cancel()
        await settle()
        assert (second.task.cancelled(), third.runs, client.queue.running) == (True, True, 1)
        await third.finish()
        assert client.queue.running == 0


@virtual
async def test_grant_that_nobody_took_is_not_charged() -> None:
    async with client_of(fair_queue(1)) as client:
        (first,) = await client.send("a")
        (unlucky,) = await client.send("b", cost=1000.0)
        first.end.set()
        await asyncio.sleep(0)
        assert (client.queue.waiting, unlucky.runs) == (0, False)
        await unlucky.hang_up()
        account = client.queue._accounts["b"]
        assert (account.pending, account.running, client.queue.running) == (0.0, 0, 0)


@virtual
async def test_thousands_of_waiters_leave_nothing_behind() -> None:
    async with client_of(fair_queue(1, max_waiting=5000)) as client:
        await client.send("a", 5001)
        assert client.queue.waiting == 5000
        await client.close()
        assert (client.queue.waiting, client.queue.running) == (0, 0)
        assert client.queue._queues == {"interactive": {}, "background": {}}


# Whatever happens

TENANTS = "abc"
ACTIONS = st.one_of(
    st.tuples(
        st.just("send"),
        st.sampled_from(TENANTS),
        st.sampled_from(["interactive", "background"]),
        st.sampled_from([1.0, 50.0]),
    ),
    st.tuples(st.sampled_from(["end", "cancel", "both"]), st.integers(0, 30)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 7.0, 25.0, 61.0])),
    st.just(("settle",)),
)


class Watched(Client):
    """A client that knows the rules and checks the queue against them."""

    def __init__(self, queue: FairQueue, slots: int) -> None:
        super().__init__(queue)
        self.slots = slots
        self.seen: dict[str, float] = {}

    def open(self) -> "list[Request]":
        return [request for request in self.requests if not request.task.done()]

    def look(self) -> None:
        for request in self.open():
            self.seen[request.tenant] = now()

    def recent(self) -> set[str]:
        return {tenant for tenant, seen in self.seen.items() if now() < seen + RECENT_S}

    async def act(self, action: tuple[Any, ...]) -> None:
        match action:
            case ("send", tenant, priority, cost):
                options = {"priority": priority, "cost": cost}
                self.requests.append(Request(self, tenant, options))
                await asyncio.sleep(0)
                self.seen[tenant] = now()
            case ("pass", seconds):
                await settle()
                self.look()
                await asyncio.sleep(seconds)
            case ("settle",):
                await settle()
            case (kind, number) if self.open():
                self.leave(kind, self.open()[number % len(self.open())])
        self.look()
        assert self.queue.running <= self.slots

    def leave(self, kind: str, request: Request) -> None:
        if kind in {"end", "both"}:
            request.end.set()
        if kind in {"cancel", "both"}:
            request.task.cancel()

    def check(self) -> None:
        """Check that counts are right after settling, and that no one waits without a reason."""
        running = [request for request in self.requests if request.runs]
        waiting = [each for each in self.open() if not each.runs]
        assert (self.queue.running, self.queue.waiting) == (len(running), len(waiting))
        for request in waiting if len(running) < self.slots else []:
            self.check_held_back(request, self.slots - len(running))

    def check_held_back(self, request: Request, free: int) -> None:
        assert self.slots > 1
        assert free <= max(1, self.slots // 8)
        assert self.recent() - {request.tenant}
        if request.options["priority"] == "interactive":
            assert self.running(request.tenant) >= self.slots / len(self.recent())


@given(
    slots=st.sampled_from([1, 2, 3, 16]),
    max_waiting=st.sampled_from([0, 3, 100]),
    max_wait_s=st.sampled_from([10.0, 1000.0]),
    actions=st.lists(ACTIONS, max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_no_slot_is_lost_or_given_twice_or_left_free_without_reason(
    slots: int, max_waiting: int, max_wait_s: float, actions: list[tuple[Any, ...]]
) -> None:
    @virtual
    async def test() -> None:
        queue = fair_queue(slots, max_waiting=max_waiting, max_wait_s=max_wait_s)
        client = Watched(queue, slots)
        for action in actions:
            await client.act(action)
            if action[0] in {"settle", "pass"}:
                await settle()
                client.check()
        await client.close()
        await settle()
        assert (queue.running, queue.waiting, queue._queues["interactive"]) == (0, 0, {})
        async with asyncio.timeout(0.1), queue.slot("new") as slot:
            assert slot.waited_s == 0.0

    test()


# Load

SLOTS = 8
STEP_S = 0.025
LOAD_S = 200.0


class Load:
    """Poisson arrivals of each tenant, at an engine whose answers take one step per token."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.waits_s: dict[str, list[float]] = {}
        self.refused: Counter[str] = Counter()

    async def run(self, requests_per_s: dict[str, float]) -> None:
        async with asyncio.TaskGroup() as group:
            for tenant, rate in requests_per_s.items():
                self.waits_s[tenant] = []
                group.create_task(self._arrivals(group, tenant, rate))

    async def _arrivals(self, group: asyncio.TaskGroup, tenant: str, rate: float) -> None:
        # Seeded by the tenant, so that its arrivals are the same whatever the others do.
        dice = random.Random(tenant)  # noqa: S311 - No secret.
        while now() < LOAD_S:
            await asyncio.sleep(dice.expovariate(rate))
            group.create_task(self._request(tenant, dice.randint(20, 200)))

    async def _request(self, tenant: str, tokens: int) -> None:
        try:
            async with self.queue.slot(tenant, cost=200.0) as slot:
                self.waits_s[tenant].append(slot.waited_s)
                await asyncio.sleep(tokens * STEP_S)
                slot.spend(tokens)
        except QueueOverloaded:
            self.refused[tenant] += 1


def load(requests_per_s: dict[str, float], *, slots: int = SLOTS) -> Load:
    async def main() -> Load:
        load = Load(fair_queue(slots, max_waiting=64, max_wait_s=30.0))
        await load.run(requests_per_s)
        return load

    return run(main())


def p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


ANSWER_S = 110 * STEP_S
FAIR_SHARE_PER_S = SLOTS / ANSWER_S / 2


@pytest.mark.parametrize("part", [0.25, 0.5])
def test_quiet_tenant_hardly_notices_one_that_sends_fifty_times_as_much(part: float) -> None:
    rate = part * FAIR_SHARE_PER_S
    before = load({"quiet": rate, "other": rate})
    after = load({"quiet": rate, "other": 50 * rate})
    # Without a slot free it waits for a release: p95 of that is three of their mean intervals.
    assert p95(after.waits_s["quiet"]) <= 1.3 * p95(before.waits_s["quiet"]) + ANSWER_S / 2
    assert (after.refused["quiet"], after.refused["other"] > 0) == (0, True)


@pytest.mark.parametrize("part", [0.25, 0.5, 0.9])
def test_quiet_tenant_beside_a_noisy_one_is_as_well_off_as_alone_on_its_share(part: float) -> None:
    rate = part * FAIR_SHARE_PER_S
    alone = load({"quiet": rate}, slots=SLOTS // 2)
    beside = load({"quiet": rate, "other": 50 * rate})
    assert p95(beside.waits_s["quiet"]) <= 1.3 * p95(alone.waits_s["quiet"]) + ANSWER_S / 4


def test_noisy_tenant_gets_what_the_quiet_one_leaves() -> None:
    served = load({"quiet": 0.5 * FAIR_SHARE_PER_S, "other": 50 * FAIR_SHARE_PER_S}).waits_s
    busy = sum(map(len, served.values())) * ANSWER_S / (SLOTS * LOAD_S)
    assert busy > (SLOTS - 1) / SLOTS  # One slot is held back.


async def overload(
    *, rate_per_s: float, duration_s: float, priority: str = "interactive"
) -> list[tuple[float, float | None]]:
    """Return each arrival and its wait (None if refused); 10 requests per second are served."""
    queue = FairQueue(slots=1, max_waiting=1000, max_wait_s=100, overload_wait_s=1.0, clock=now)
    told: list[tuple[float, float | None]] = []

    async def request() -> None:
        came = now()
        try:
            async with queue.slot("t", priority=priority) as slot:  # type: ignore[arg-type]
                told.append((came, slot.waited_s))
                await asyncio.sleep(0.1)
        except QueueOverloaded:
            told.append((came, None))

    tasks = []
    while now() < duration_s:
        tasks.append(asyncio.create_task(request()))
        await asyncio.sleep(1 / rate_per_s)
    await asyncio.gather(*tasks)
    return told


@virtual
async def test_wait_is_short_once_more_come_than_can_be_served() -> None:
    told = await overload(rate_per_s=20, duration_s=60)
    late = [waited_s for came, waited_s in told if came > 3 * OVERLOADED_AFTER_S]
    served = [waited_s for waited_s in late if waited_s is not None]
    assert max(served) <= 1.2
    assert 0.45 < len(served) / len(late) < 0.55  # All that can be: half of those that come.


@virtual
async def test_burst_may_wait_for_longer() -> None:
    told = await overload(rate_per_s=20, duration_s=OVERLOADED_AFTER_S - 1)
    assert [came for came, waited_s in told if waited_s is None] == []
    assert max(waited_s for _, waited_s in told if waited_s is not None) > 4


@virtual
async def test_background_work_waits_through_an_overload() -> None:
    told = await overload(rate_per_s=20, duration_s=30, priority="background")
    assert [came for came, waited_s in told if waited_s is None] == []
