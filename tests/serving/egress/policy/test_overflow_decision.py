"""The overflow decision: by cases, by properties, and in a simulated surge.

The simulation is an open loop: Poisson arrivals at the real queue, before an engine whose answers
take a time of their own. What leaves takes no place.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    RequestRejected,
)
from serving.admission.fair_queue import FairQueue
from serving.admission.slots import QueueOverloaded
from serving.config.overflow import (
    TRIGGERS,
    OverflowSettings,
    ProviderModelSettings,
    ProviderSettings,
    Trigger,
)
from serving.egress.policy.overflow_decision import (
    MAX_SURGES,
    Here,
    KeyOverflow,
    OverflowDecision,
    OverflowPolicy,
    WaitBounds,
    trigger_of,
)
from tests.serving.virtual_time import now, run

WAIT = WaitBounds(max_wait_s=2.0, resume_wait_s=0.5, dwell_s=10.0)
POLICY = OverflowPolicy(
    enabled=True, providers=("a", "b"), triggers=frozenset(TRIGGERS), wait=WAIT, max_share=0.5
)
OPTED_IN = replace(POLICY, triggers=POLICY.triggers | {"context_length"})


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def decision(clock: Clock) -> OverflowDecision:
    return OverflowDecision(clock)


def decide(decision: OverflowDecision, *waits_s: float) -> list[bool]:
    """Whether requests leave that would wait that long."""
    return [decision.at_arrival(POLICY, Here(wait_s)) == "queue_wait" for wait_s in waits_s]


def test_overflow_begins_above_the_upper_bound(decision: OverflowDecision) -> None:
    assert decide(decision, 1.9, 2.0, 2.1) == [False, False, True]


def test_surge_sends_out_what_would_wait_longer_than_the_lower_bound(
    decision: OverflowDecision,
) -> None:
    assert decide(decision, 2.1, 1.0, 0.6, 0.5, 0.0) == [True, True, True, False, False]


def test_surge_ends_when_no_wait_was_long_for_the_dwell_time(
    decision: OverflowDecision, clock: Clock
) -> None:
    decide(decision, 2.1)
    clock.seconds += 9.9
    assert decide(decision, 0.6) == [True]
    clock.seconds += 9.9
    assert decide(decision, 0.2) == [False]
    clock.seconds += 0.1
    assert decide(decision, 1.9) == [False]


def test_surge_ends_although_nobody_asks_meanwhile(
    decision: OverflowDecision, clock: Clock
) -> None:
    decide(decision, 5.0)
    clock.seconds += 10.0
    assert (decision.surges(WAIT), decide(decision, 1.9)) == (False, [False])


def test_request_that_may_not_leave_still_shows_the_surge(decision: OverflowDecision) -> None:
    closed = replace(POLICY, enabled=False)
    assert decision.at_arrival(closed, Here(3.0)) is None
    assert decision.at_arrival(POLICY, Here(1.0)) == "queue_wait"


def test_bounds_of_a_key_have_a_surge_of_their_own(decision: OverflowDecision) -> None:
    patient = POLICY.of_key(KeyOverflow(max_wait_s=8.0))
    assert decision.at_arrival(POLICY, Here(3.0)) == "queue_wait"
    assert decision.at_arrival(patient, Here(3.0)) is None


def test_memory_does_not_grow_with_the_bounds_of_keys(
    decision: OverflowDecision, clock: Clock
) -> None:
    for number in range(3 * MAX_SURGES):
        clock.seconds += 1.0
        decision.at_arrival(POLICY.of_key(KeyOverflow(max_wait_s=1 + number / 1e6)), Here(9.0))
    assert len(decision._ends) <= MAX_SURGES


@pytest.mark.parametrize(
    ("here", "trigger"),
    [
        (Here(0.0), None),
        (Here(0.0, ready=False), "engine_unavailable"),
        (Here(9.0, ready=False), "engine_unavailable"),
    ],
)
def test_reason_is_the_one_that_no_waiting_would_mend(
    decision: OverflowDecision, here: Here, trigger: Trigger | None
) -> None:
    assert decision.at_arrival(OPTED_IN, here) == trigger


@pytest.mark.parametrize("trigger", [*TRIGGERS, "context_length"])
def test_only_triggers_that_count_let_a_request_leave(trigger: Trigger) -> None:
    one = replace(POLICY, triggers=frozenset({trigger}))
    others = replace(OPTED_IN, triggers=OPTED_IN.triggers - {trigger})
    assert one.allows(trigger)
    assert not others.allows(trigger)


@pytest.mark.parametrize("policy", [replace(POLICY, enabled=False), replace(POLICY, providers=())])
def test_nothing_leaves_where_overflow_is_off_or_nobody_is_there(
    decision: OverflowDecision, policy: OverflowPolicy
) -> None:
    assert decision.at_arrival(policy, Here(9.0, ready=False)) is None
    assert not policy.allows("engine_error")


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_too_long_a_context_leaves_for_no_other_reason(trigger: Trigger) -> None:
    assert not POLICY.allows(trigger, fits=False)
    assert OPTED_IN.allows(trigger, fits=False)


@pytest.mark.parametrize(
    ("error", "trigger"),
    [
        (EngineOverloaded("full"), "overloaded"),
        (EngineUnavailable("loading"), "engine_unavailable"),
        (EngineTimeout("late"), "engine_error"),
        (EngineFailed("broke"), "engine_error"),
        (ContextLengthExceeded("long"), "context_length"),
        (RequestRejected("wrong"), None),
    ],
)
def test_engine_error_is_a_reason_unless_the_request_is_at_fault(
    error: EngineError, trigger: Trigger | None
) -> None:
    assert trigger_of(error) == trigger


def test_key_allows_nothing_that_its_model_does_not() -> None:
    key = KeyOverflow(
        max_share=0.9, providers=("c", "b"), triggers=frozenset({"queue_wait", "context_length"})
    )
    assert POLICY.of_key(key) == replace(
        POLICY, providers=("b",), triggers=frozenset({"queue_wait"})
    )
    assert not POLICY.of_key(KeyOverflow(enabled=False)).enabled
    assert not replace(POLICY, enabled=False).of_key(KeyOverflow()).enabled


def provider(name: str, *models: str) -> ProviderSettings:
    return ProviderSettings(
        name=name,
        kind="openai",
        api_key=SecretStr("sk-p"),
        models=(ProviderModelSettings(model="m", stands_in_for=models, context_tokens=1000),),
    )


def test_policy_of_a_model_has_the_providers_that_stand_in_for_it_in_their_order() -> None:
    settings = OverflowSettings(
        providers=(provider("z", "chat"), provider("y", "other"), provider("a", "other", "chat")),
        max_wait_s=3.0,
        resume_wait_s=1.0,
        dwell_s=7.0,
        max_share=0.25,
    )
    assert OverflowPolicy.of(settings, "chat") == OverflowPolicy(
        enabled=True,
        providers=("z", "a"),
        triggers=frozenset(TRIGGERS),
        wait=WaitBounds(max_wait_s=3.0, resume_wait_s=1.0, dwell_s=7.0),
        max_share=0.25,
    )


def test_nothing_leaves_by_the_default_settings(decision: OverflowDecision) -> None:
    policy = OverflowPolicy.of(OverflowSettings(), "chat")
    assert decision.at_arrival(policy, Here(9.0, ready=False)) is None


def test_key_that_says_nothing_has_the_policy_of_the_model() -> None:
    assert POLICY.of_key(KeyOverflow()) == POLICY


def test_impatient_key_has_a_lower_bound_within_its_upper_one() -> None:
    wait = POLICY.of_key(KeyOverflow(max_wait_s=0.2)).wait
    assert (wait.max_wait_s, wait.resume_wait_s) == (0.2, 0.2)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 6)), max_size=60))
def test_no_course_of_waits_makes_it_flap(course: list[tuple[float, float]]) -> None:
    clock = Clock()
    decision = OverflowDecision(clock)
    began: list[float] = []
    for pause_s, wait_s in course:
        clock.seconds += pause_s
        surged = decision.surges(WAIT)
        (left,) = decide(decision, wait_s)
        assert left == (wait_s > (WAIT.resume_wait_s if surged else WAIT.max_wait_s))
        if left and not surged:
            began.append(clock.seconds)
    assert all(b - a >= WAIT.dwell_s for a, b in pairwise(began))


SLOTS = 16
ANSWER_S = 2.0
CAPACITY_PER_S = SLOTS / ANSWER_S


@dataclass(frozen=True)
class Arrival:
    """A request of the simulation. `reason` is why it left; None if it was served locally."""

    at_s: float
    reason: Trigger | None
    predicted_s: float
    surging: bool


class Simulation:
    """An engine with that many slots behind the real queue, with the decision in front."""

    def __init__(self, seed: int) -> None:
        self.queue = FairQueue(
            slots=SLOTS, max_waiting=64, max_wait_s=10.0, overload_wait_s=1.0, clock=now
        )
        self.decision = OverflowDecision(now)
        self.dice = random.Random(seed)  # noqa: S311 - No secret.
        self.arrivals: list[Arrival] = []
        self.waited_s: list[float] = []

    async def run(self, phases: Sequence[tuple[float, float]]) -> None:
        """Run the simulation; phases are seconds, with the load as a part of the capacity."""
        async with asyncio.TaskGroup() as group:
            end_s = 0.0
            for duration_s, load in phases:
                end_s += duration_s
                while now() < end_s:
                    group.create_task(self._request())
                    await asyncio.sleep(self.dice.expovariate(load * CAPACITY_PER_S))

    async def _request(self) -> None:
        at_s, predicted_s = now(), self.queue.predicted_wait_s()
        reason = self.decision.at_arrival(POLICY, Here(predicted_s))
        surging = self.decision.surges(WAIT)
        if reason is None:
            reason = await self._serve()
        self.arrivals.append(Arrival(at_s, reason, predicted_s, surging))

    async def _serve(self) -> Trigger | None:
        try:
            async with self.queue.slot("t") as slot:
                self.waited_s.append(slot.waited_s)
                await asyncio.sleep(self.dice.gammavariate(4.0, ANSWER_S / 4))
        except QueueOverloaded:
            return "overloaded"
        return None

    def left(self, from_s: float, to_s: float = float("inf")) -> list[Arrival]:
        return [one for one in self.arrivals if one.reason and from_s <= one.at_s < to_s]

    @property
    def flips(self) -> int:
        """Return how often one request saw a surge and the next did not, or vice versa."""
        seen = [one.surging for one in sorted(self.arrivals, key=lambda one: one.at_s)]
        return sum(a != b for a, b in pairwise(seen))


def simulate(*phases: tuple[float, float], seed: int) -> Simulation:
    async def work() -> Simulation:
        simulation = Simulation(seed)
        await simulation.run(phases)
        return simulation

    return run(work())


NORMAL = 0.6
SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_surge_of_three_times_the_capacity_begins_and_ends_once(seed: int) -> None:
    ran = simulate((60, NORMAL), (60, 3.0), (120, NORMAL), seed=seed)
    assert ran.flips == 2
    assert ran.left(0, 60) == []
    assert len(ran.left(120)) <= 10
    assert ran.left(120 + WAIT.dwell_s) == []
    during = [one for one in ran.arrivals if 70 <= one.at_s < 120]
    served = sum(one.reason is None for one in during)
    assert 0.95 < served / (50 * CAPACITY_PER_S) < 1.1  # The engine here is never left idle.
    assert {one.reason for one in ran.left(0)} == {"queue_wait"}
    assert max(ran.waited_s) < WAIT.max_wait_s + 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_request_that_is_served_in_time_here_stays_whatever_was_before(seed: int) -> None:
    ran = simulate((30, NORMAL), (30, 3.0), (30, NORMAL), (30, 3.0), (60, NORMAL), seed=seed)
    assert [one for one in ran.left(0) if one.predicted_s <= WAIT.resume_wait_s] == []


@pytest.mark.parametrize("load", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_load_that_hovers_at_the_bound_flips_once_in_a_dwell_time_at_most(
    seed: int, load: float
) -> None:
    ran = simulate((600, load), seed=seed)
    assert ran.flips <= 2 * 600 / WAIT.dwell_s / 4  # A quarter of what the dwell time allows.


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_leaves_under_normal_load(seed: int) -> None:
    assert simulate((600, NORMAL), seed=seed).left(0) == []
