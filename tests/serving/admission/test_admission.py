"""Admission: every reservation is settled once and every place is returned, however work ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from serving.admission.admission import (
    STORE_WAIT_S,
    Admission,
    Ask,
    Most,
    Permit,
)
from serving.admission.budgets import Lookups
from serving.admission.demand import RateLimits, Settlement
from serving.admission.fair_queue import FairQueue
from serving.admission.limits import Subject
from serving.admission.policies import BudgetLimit, Policies, Policy
from serving.admission.reservations import Reservations
from serving.domain.errors import (
    AdmissionUnavailable,
    BudgetExhausted,
    BudgetHeld,
    DeadlineExceeded,
    InvalidKey,
    Overloaded,
    RateLimited,
    TooManyTokens,
)
from serving.domain.principal import Principal
from serving.domain.quota import Headroom, Quota
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable
from serving.storage.valkey import Valkey
from tests.elapsed import Elapsed
from tests.serving.live import eventually

CALLER = Principal("acme", "k1", "ci", "inference", None)
BEGAN = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
_numbers = itertools.count()


def rates(**limits: int) -> Policy:
    return Policy([RateLimits("key:k1", **limits)], [], None, False, 1.0)  # noqa: FBT003


NO_LIMITS = Policy([], [], None, False, 1.0)  # noqa: FBT003
SINGLE = rates(concurrent_requests=1, requests_per_minute=1000, tokens_per_minute=1_000_000)
DAILY = BudgetLimit(Subject("key", "k1"), "day", 1000)
TOTAL = BudgetLimit(Subject("tenant", "acme"), "total", 5000)
BUDGETS = Policy([], [DAILY, TOTAL], None, True, 1.0)  # noqa: FBT003
EVERYTHING = Policy(SINGLE.rates, BUDGETS.budgets, None, True, 1.0)  # noqa: FBT003
PER_MINUTE = rates(requests_per_minute=10, tokens_per_minute=1000)
COUNTED = Policy(PER_MINUTE.rates, BUDGETS.budgets, None, True, 1.0)  # noqa: FBT003


@dataclass
class FixedPolicies:
    """Returns one policy for all subjects."""

    policy: Policy

    async def of(self, principal: Principal, model: str) -> Policy:
        del principal, model
        await asyncio.sleep(0)
        return self.policy


@dataclass
class FakeLedger:
    """Returns what was spent by subject. Waits or fails on demand."""

    spent: dict[str, int] = field(default_factory=dict)
    waits_s: float = 0.0
    error: Exception | None = None
    asked: list[tuple[str, date | None]] = field(default_factory=list)

    async def __call__(self, subject: str, since: date | None) -> int:
        self.asked.append((subject, since))
        await asyncio.sleep(self.waits_s)
        if self.error is not None:
            raise self.error
        return self.spent.get(subject, 0)


@dataclass
class Gate:
    """An admission on one Valkey, with its inputs and its state."""

    admission: Admission
    valkey: Valkey
    prefix: str
    ledger: FakeLedger
    policies: FixedPolicies
    revoked: set[str] = field(default_factory=set)

    @property
    def queue(self) -> FairQueue:
        return self.admission.queues["m"]

    async def held(self) -> dict[str, int]:
        """Return the reservations in Valkey."""
        number, key = self.valkey.command, self.prefix
        gateways = await number("KEYS", f"{key}held:*")
        budgets = [await number("HGET", name, "reserved") for name in await self._budgets()]
        return {
            "open": await number("SCARD", f"{key}open:key:k1"),
            "held": sum([await number("HLEN", name) for name in gateways]),
            "reserved": sum(int(reserved or 0) for reserved in budgets),
        }

    async def spent(self) -> dict[str, int]:
        """Return what is spent of each budget."""
        return {
            name.decode().partition("budget:")[2]: int(
                await self.valkey.command("HGET", name, "spent")
            )
            for name in await self._budgets()
        }

    async def _budgets(self) -> list[bytes]:
        return sorted(await self.valkey.command("KEYS", f"{self.prefix}budget:*"))

    async def rows(self) -> list[str]:
        """Return the ids of rows that are on their way to the ledger."""
        entries = await self.valkey.command("XRANGE", f"{self.prefix}outbox", "-", "+")
        return [orjson.loads(row)["id"] for _, fields in entries for row in fields.values()]


NOTHING = {"open": 0, "held": 0, "reserved": 0}
Make = Callable[..., Gate]


@pytest.fixture
async def near(embedded_valkey_url: str) -> AsyncIterator[Valkey]:
    opened = Valkey.open(embedded_valkey_url, timeout_s=5.0)
    yield opened
    await opened.close()


@pytest.fixture
async def make(near: Valkey, valkey_prefix: str) -> AsyncIterator[Make]:
    """Makes gates: `make(policy, slots=..., max_waiting=...)`; several share one state."""
    made: list[Gate] = []

    def build(
        policy: Policy = NO_LIMITS,
        *,
        valkey: Valkey = near,
        slots: int = 8,
        max_waiting: int = 8,
        max_request_s: float = 60.0,
        reservations: type[Reservations] = Reservations,
    ) -> Gate:
        ledger, policies, revoked = FakeLedger(), FixedPolicies(policy), set[str]()

        async def still_works(key_id: str) -> bool:
            return key_id not in revoked

        admission = Admission(
            policies=cast("Policies", policies),
            reservations=reservations(valkey, prefix=valkey_prefix, heartbeat_s=0.05),
            queues={"m": FairQueue(slots=slots, max_waiting=max_waiting, max_wait_s=5.0)},
            lookups=Lookups(ledger),
            still_works=still_works,
            max_request_s=max_request_s,
        )
        made.append(Gate(admission, valkey, valkey_prefix, ledger, policies, revoked))
        return made[-1]

    yield build
    for gate in made:
        await gate.admission.close()


async def a_little(longest_s: float) -> Most:
    del longest_s
    await asyncio.sleep(0)
    return Most(tokens=10, cost_nanos=100)


def ask(*, most: Any = a_little, timeout_s: float | None = None) -> Ask:
    number = f"r{next(_numbers)}"
    return Ask(
        id=number,
        principal=CALLER,
        model="m",
        started_at=BEGAN,
        facts=f'{{"id":"{number}"}}',
        most=most,
        timeout_s=timeout_s,
    )


@dataclass
class Closing:
    """Settles requests, and records how their work ended. Waits or fails on demand."""

    asked: Ask
    tokens: int = 4
    cost_nanos: int = 60
    waits_s: float = 0.0
    error: Exception | None = None
    ended_by: list[BaseException | None] = field(default_factory=list)

    async def __call__(self, error: BaseException | None) -> Settlement:
        self.ended_by.append(error)
        await asyncio.sleep(self.waits_s)
        if self.error is not None:
            raise self.error
        return Settlement(self.tokens, self.cost_nanos, self.asked.facts)


async def work(
    gate: Gate,
    *,
    body: Callable[[], Any] | None = None,
    asked: Ask | None = None,
    closing: Closing | None = None,
    **close: Any,
) -> Quota:
    """Run one request: admission, work, settlement."""
    asked = closing.asked if closing is not None else asked or ask()
    async with gate.admission.enter(asked, closing or Closing(asked, **close)) as permit:
        await asyncio.sleep(0)
        if body is not None:
            await body()
        return permit.quota


async def quiet(gate: Gate) -> bool:
    """Whether every settlement has arrived."""
    with suppress(ValkeyUnavailable):
        return await eventually(lambda: gate.admission.reservations.unsettled == 0)
    return False


async def test_request_that_ends_is_settled_when_its_scope_is_left(make: Make) -> None:
    gate, asked = make(EVERYTHING), ask()
    quota = await work(gate, asked=asked)
    assert quota == Quota(Headroom(1000, 999, 60.0), Headroom(1_000_000, 999_990, 60.0))
    assert await gate.rows() == [asked.id]
    assert await gate.held() == NOTHING
    assert await gate.spent() == {"key:k1:day:2026-03-01": 60, "tenant:acme:total": 60}


async def test_most_is_held_while_the_request_runs(make: Make) -> None:
    gate = make(EVERYTHING)

    async def look() -> None:
        assert await gate.held() == {"open": 1, "held": 1, "reserved": 200}

    await work(gate, body=look)


async def test_what_valkey_does_not_know_of_a_budget_is_asked_of_the_ledger_once(
    make: Make,
) -> None:
    gate = make(BUDGETS)
    gate.ledger.spent = {"key:k1": 100, "tenant:acme": 200}
    await work(gate)
    await work(gate)
    assert gate.ledger.asked == [("key:k1", date(2026, 3, 1)), ("tenant:acme", None)]
    assert await gate.spent() == {"key:k1:day:2026-03-01": 220, "tenant:acme:total": 320}


async def test_budget_that_the_ledger_says_is_spent_refuses(make: Make) -> None:
    gate = make(BUDGETS)
    gate.ledger.spent = {"key:k1": 901}
    with pytest.raises(BudgetExhausted, match="daily budget of this key"):
        await work(gate)
    assert await gate.held() == NOTHING


async def test_budget_that_running_requests_hold_is_told_apart(make: Make) -> None:
    gate = make(BUDGETS)

    async def expensive(longest_s: float) -> Most:
        del longest_s
        return Most(1, 901)

    async def another() -> None:
        with pytest.raises(BudgetHeld):
            await work(gate)

    await work(gate, asked=ask(most=expensive), body=another)
    assert await gate.held() == NOTHING


async def test_refused_request_is_not_closed_and_has_no_row(make: Make) -> None:
    gate, asked = make(rates(requests_per_minute=0)), ask()
    closing = Closing(asked)
    with pytest.raises(RateLimited):
        async with gate.admission.enter(asked, closing):
            pytest.fail("it was let in")
    assert (closing.ended_by, await gate.rows(), gate.queue.running) == ([], [], 0)


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_request"])
async def test_request_too_large_for_its_limit_takes_nothing(make: Make, limit: str) -> None:
    policy = rates(tokens_per_minute=9)
    if limit == "tokens_per_request":
        policy = Policy([], [], 9, False, 1.0)  # noqa: FBT003
    gate = make(policy)
    with pytest.raises(TooManyTokens, match="10 tokens"):
        await work(gate)
    assert await gate.held() == NOTHING


async def test_most_is_asked_of_the_longest_the_request_may_take(make: Make) -> None:
    asked_s: list[float] = []

    async def most(longest_s: float) -> Most:
        asked_s.append(longest_s)
        return Most(1, 1)

    gate = make(EVERYTHING, max_request_s=60.0)
    for timeout_s in (None, 5.0, 100.0):
        await work(gate, asked=ask(most=most, timeout_s=timeout_s))
    assert asked_s == [60.0, 5.0, 60.0]


async def test_nothing_is_counted_where_no_limit_is_on_it(make: Make) -> None:
    async def never(longest_s: float) -> Most:
        raise AssertionError(longest_s)

    for policy in (NO_LIMITS, rates(requests_per_minute=5, concurrent_requests=5)):
        await work(make(policy), asked=ask(most=never))


async def test_failure_of_the_work_is_passed_on_and_settled(make: Make) -> None:
    gate, asked = make(EVERYTHING), ask()
    closing, failure = Closing(asked), LookupError("broke")
    with pytest.raises(LookupError, match="broke"):
        async with gate.admission.enter(asked, closing):
            raise failure
    assert (closing.ended_by, await gate.rows()) == ([failure], [asked.id])
    assert await gate.held() == NOTHING


async def test_time_out_of_the_work_s_own_is_not_taken_for_the_deadline(make: Make) -> None:
    gate, asked = make(), ask()
    closing = Closing(asked)
    with pytest.raises(TimeoutError):
        async with gate.admission.enter(asked, closing):
            raise TimeoutError
    assert [type(error) for error in closing.ended_by] == [TimeoutError]


async def test_failure_to_close_leaks_no_reservation(make: Make) -> None:
    gate = make(EVERYTHING)
    with pytest.raises(ZeroDivisionError):
        await work(gate, error=ZeroDivisionError())
    assert await gate.held() == NOTHING
    assert (gate.queue.running, await gate.rows()) == (0, [])
    assert await gate.spent() == {"key:k1:day:2026-03-01": 0, "tenant:acme:total": 0}


async def test_full_queue_gives_the_reservation_back(make: Make) -> None:
    gate = make(COUNTED, slots=1, max_waiting=0)

    async def another() -> None:
        with pytest.raises(Overloaded) as refused:
            await work(gate)
        assert refused.value.quota is not None
        assert refused.value.retry_after_s is not None
        assert await gate.held() == {"open": 0, "held": 1, "reserved": 200}
        window = f"{gate.prefix}window:key:k1"
        assert await gate.valkey.command("ZCARD", window) == 1

    await work(gate, body=another)
    assert len(await gate.rows()) == 1
    assert await gate.held() == NOTHING


@pytest.mark.parametrize("whose", ["client", "server"])
async def test_deadline_ends_the_work_and_settles_it(make: Make, whose: str) -> None:
    gate = make(EVERYTHING, max_request_s=0.05 if whose == "server" else 60)
    asked = ask(timeout_s=0.05 if whose == "client" else None)
    closing = Closing(asked)
    with pytest.raises(DeadlineExceeded):
        async with gate.admission.enter(asked, closing):
            await asyncio.sleep(10)
    assert [type(error) for error in closing.ended_by] == [DeadlineExceeded]
    assert (await gate.rows(), await gate.held(), gate.queue.running) == ([asked.id], NOTHING, 0)


async def test_deadline_holds_in_the_queue(make: Make) -> None:
    gate = make(rates(requests_per_minute=10), slots=1)

    async def another() -> None:
        with pytest.raises((DeadlineExceeded, Overloaded)):
            await work(gate, asked=ask(timeout_s=0.05))
        assert gate.queue.waiting == 0

    await work(gate, body=another)
    assert len(await gate.rows()) == 1


async def test_deadline_holds_while_the_ledger_is_asked(make: Make) -> None:
    gate = make(BUDGETS)
    gate.ledger.waits_s = 600.0
    async with asyncio.timeout(30):
        with pytest.raises(DeadlineExceeded):
            await work(gate, asked=ask(timeout_s=0.05))


async def test_work_is_settled_though_its_deadline_passes_while_it_is_closed(make: Make) -> None:
    gate, asked = make(EVERYTHING, max_request_s=0.05), ask()
    with suppress(DeadlineExceeded):
        await work(gate, asked=asked, waits_s=0.2)
    assert await gate.rows() == [asked.id]


async def test_revoked_key_ends_its_running_requests_alone(make: Make) -> None:
    gate, asked = make(), ask()
    await work(gate)  # One that has ended is not looked at any more.
    gate.admission.start()
    closing = Closing(asked)
    other = Ask(**{name: getattr(asked, name) for name in Ask.__slots__} | {
        "principal": Principal("acme", "k2", "ci", "inference", None), "id": "other"
    })  # fmt: skip
    goes_on = asyncio.create_task(
        work(gate, asked=other, body=lambda: asyncio.sleep(1.5))  # Past the next look at keys.
    )
    ends = asyncio.create_task(
        work(gate, closing=closing, body=lambda: asyncio.sleep(60))  # Unless it is revoked.
    )
    assert await eventually(lambda: gate.queue.running == 2)
    gate.revoked.add("k1")
    with pytest.raises(InvalidKey):
        await ends
    assert [type(error) for error in closing.ended_by] == [InvalidKey]
    assert isinstance(await goes_on, Quota)
    assert await gate.held() == NOTHING


@pytest.mark.parametrize("first", ["revoked", "out of time"])
async def test_scope_that_is_being_left_may_be_revoked(make: Make, first: str) -> None:
    gate = make(max_request_s=0.05)

    async def run() -> None:
        asked = ask()
        revoked = InvalidKey("The API key was revoked.")
        async with gate.admission.enter(asked, Closing(asked)) as permit:
            if first == "revoked":
                permit.end(revoked)
            try:
                await asyncio.sleep(10)
            finally:
                permit.end(revoked)  # As after the next second, while the engine is stopped.

    with pytest.raises((InvalidKey, DeadlineExceeded)):
        await run()


async def test_permit_without_a_place_has_not_waited() -> None:
    assert Permit(Quota(), asyncio.get_running_loop().time()).waited_s == 0.0


class CancelledAt:
    """Awaits `work`, and cancels its task at the waits with the given numbers."""

    def __init__(self, work: Any, times: Sequence[int]) -> None:
        self.work = work
        self.times = times
        self.waited = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.work.__await__()
        sent: Any = None
        error: BaseException | None = None
        while True:
            try:
                waits_for = inner.send(sent) if error is None else inner.throw(error)
            except StopIteration as done:
                return done.value
            self.waited += 1
            if self.waited in self.times:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            sent, error = None, None
            try:
                sent = yield waits_for
            except BaseException as raised:  # noqa: BLE001  Passed on to the work.
                error = raised


async def cancelled_at(gate: Gate, times: Sequence[int], asked: Ask) -> int:
    """Run a request that is cancelled at these waits; return how often it waited."""
    running = CancelledAt(work(gate, asked=asked, body=lambda: asyncio.sleep(0.001)), times)

    async def run() -> None:
        await running

    await asyncio.wait({asyncio.create_task(run())})
    return running.waited


SWEPT: Mapping[str, Policy] = {
    "no limits": NO_LIMITS,
    "rates": SINGLE,
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("again", [False, True], ids=["once", "and again while it is left"])
@pytest.mark.parametrize("policy", SWEPT.values(), ids=SWEPT.keys())
async def test_request_cancelled_wherever_it_waits_holds_nothing(
    make: Make, policy: Policy, *, again: bool
) -> None:
    gate = make(policy)
    for at in itertools.count(1):
        await forget_budgets(gate)
        asked = ask()
        times = [at, at + 1] if again else [at]
        waited = await cancelled_at(gate, times, asked)
        assert await quiet(gate)
        assert (at, await gate.held()) == (at, NOTHING)
        assert (gate.queue.running, gate.queue.waiting) == (0, 0)
        rows = await gate.rows()
        assert rows.count(asked.id) <= 1
        if waited < at:
            break
    assert at > 5
    assert len(rows) == len(set(rows)) > 1


async def forget_budgets(gate: Gate) -> None:
    """Clear the budgets, so that they are loaded from the ledger again."""
    for name in await gate._budgets():
        await gate.valkey.command("DEL", name)


@pytest.mark.parametrize("policy", SWEPT.values(), ids=SWEPT.keys())
async def test_request_cancelled_at_any_turn_of_the_loop_holds_nothing(
    make: Make, policy: Policy
) -> None:
    gate, ids = make(policy), []
    for turns in range(50):
        asked = ask()
        ids.append(asked.id)
        running = work(gate, asked=asked, body=lambda: asyncio.sleep(0.001), cost_nanos=1)
        task = asyncio.create_task(running)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            assert task.exception() is None
        assert (gate.queue.running, gate.queue.waiting) == (0, 0)
    assert await quiet(gate)
    assert await gate.held() == NOTHING
    rows = await gate.rows()
    assert len(rows) == len(set(rows))
    assert set(rows) <= set(ids)


async def test_request_cancelled_while_it_waits_for_its_turn_holds_nothing(make: Make) -> None:
    gate = make(COUNTED, slots=1)

    async def another() -> None:
        waiting = asyncio.create_task(work(gate))
        assert await eventually(lambda: gate.queue.waiting == 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()

    await work(gate, body=another)
    assert await quiet(gate)
    assert await gate.held() == NOTHING
    assert (gate.queue.running, gate.queue.waiting, len(await gate.rows())) == (0, 0, 1)


async def test_budget_that_is_set_while_a_request_runs_counts_it(make: Make) -> None:
    gate = make(NO_LIMITS)

    async def budget_is_set_and_used() -> None:
        gate.policies.policy = BUDGETS
        await work(gate, cost_nanos=1)

    await work(gate, body=budget_is_set_and_used, cost_nanos=60)
    assert await gate.spent() == {"key:k1:day:2026-03-01": 61, "tenant:acme:total": 61}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    embedded = EmbeddedValkey(tmp_path)
    embedded.ensure()
    yield embedded
    embedded.stop()


@pytest.fixture
async def far(server: EmbeddedValkey) -> AsyncIterator[Valkey]:
    """A Valkey that can be stopped, with a gateway's deadline."""
    opened = Valkey.open(server.url)
    yield opened
    await opened.close()


async def test_rates_let_through_while_valkey_is_away_and_are_settled_when_it_is_back(
    make: Make, server: EmbeddedValkey, far: Valkey
) -> None:
    gate, asked = make(SINGLE, valkey=far), ask()
    gate.admission.start()
    server.stop()
    assert await work(gate, asked=asked) == Quota()
    assert gate.admission.unchecked == 1
    assert gate.admission.reservations.unsettled > 0
    server.ensure()
    assert await quiet(gate)
    await asyncio.sleep(0.3)  # Valkey is left alone for a moment after each failure.
    assert await gate.rows() == [asked.id]
    assert await gate.held() == NOTHING


async def test_request_let_through_is_held_as_soon_as_valkey_is_back(
    make: Make, server: EmbeddedValkey, far: Valkey
) -> None:
    gate, asked = make(SINGLE, valkey=far), ask()
    gate.admission.start()
    server.stop()

    async def valkey_comes_back() -> None:
        server.ensure()
        assert await eventually(lambda: gate.admission.reservations.available)
        async with asyncio.timeout(30):
            while (await gate.held())["open"] == 0:  # noqa: ASYNC110  It has no event.
                await asyncio.sleep(0.02)

    await work(gate, asked=asked, body=valkey_comes_back)
    assert (await gate.held(), await gate.rows()) == (NOTHING, [asked.id])


async def test_budget_waits_for_a_valkey_that_restarts(
    make: Make, server: EmbeddedValkey, far: Valkey
) -> None:
    gate = make(BUDGETS, valkey=far)
    server.stop()
    waiting = asyncio.create_task(work(gate))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    server.ensure()
    assert await waiting == Quota()
    assert gate.admission.unchecked == 0
    assert await gate.held() == NOTHING


async def test_budget_refuses_when_it_has_waited_long_enough(make: Make) -> None:
    away = Valkey.open("redis://127.0.0.1:1")
    gate, elapsed = make(BUDGETS, valkey=away), Elapsed()
    with pytest.raises(AdmissionUnavailable):
        await work(gate)
    assert elapsed.seconds >= STORE_WAIT_S
    assert gate.queue.running == 0
    await away.close()


async def test_budget_whose_sum_cannot_be_read_refuses(make: Make) -> None:
    gate = make(BUDGETS)
    gate.ledger.error = DatabaseUnavailable("locked")
    with pytest.raises(AdmissionUnavailable):
        await work(gate)
    assert len(gate.ledger.asked) > 1
    assert await gate.held() == NOTHING


async def test_client_is_not_kept_for_a_settlement_that_does_not_arrive(make: Make) -> None:
    """The server cannot be reached: settling fails at once, and the row is kept for later."""
    away = Valkey.open("redis://127.0.0.1:1")
    gate, asked = make(SINGLE, valkey=away), ask()
    await work(gate, asked=asked)
    assert asked.id in str(gate.admission.reservations.unsettled_rows())
    await away.close()


class Full(Reservations):
    """Reservations with so many unsettled rows that no more requests are admitted."""

    is_full = True


@pytest.mark.parametrize("policy", [NO_LIMITS, SINGLE], ids=["no limits", "rates"])
async def test_nobody_is_let_in_while_too_much_waits_to_be_settled(
    make: Make, policy: Policy
) -> None:
    gate = make(policy, reservations=Full)
    with pytest.raises(AdmissionUnavailable):
        await work(gate)
    assert gate.queue.running == 0
