import asyncio

import pytest

from benchmarks.servers.steps import Pace, StepClock
from tests.serving.virtual_time import pass_time, run


class Member:
    """A member that takes `length` steps and records their times."""

    def __init__(self, length):
        self.length = length
        self.times_s = []
        self.done = asyncio.Event()

    def step(self):
        self.times_s.append(asyncio.get_running_loop().time())
        if len(self.times_s) == self.length:
            self.done.set()
        return len(self.times_s) < self.length


async def taken(pace, *lengths):
    steps = StepClock(pace)
    members = [Member(length) for length in lengths]
    for member in members:
        steps.join(member.step)
    async with asyncio.timeout(60):
        await asyncio.gather(*(member.done.wait() for member in members))
    return members


def test_members_are_called_once_a_step_and_together():
    first, second = run(taken(Pace(step_ms=30), 3, 5))
    assert second.times_s == pytest.approx([0.03, 0.06, 0.09, 0.12, 0.15])
    assert first.times_s == second.times_s[:3]


def test_a_step_that_takes_long_delays_none_that_is_due_later():
    async def worked():
        steps, member = StepClock(Pace(step_ms=10)), Member(40)

        def slow_step():
            pass_time(0.004)
            return member.step()

        steps.join(slow_step)
        await member.done.wait()
        return member

    member = run(worked())
    assert pytest.approx(0.39) == member.times_s[-1] - member.times_s[0]


def test_a_step_may_take_longer_for_each_stream():
    assert Pace(step_ms=5, per_stream_ms=1).step_s(10) == 0.015


async def test_without_a_pace_nothing_waits():
    (member,) = await taken(Pace(), 1_000)
    assert len(member.times_s) == 1_000


async def test_who_left_is_not_called_again():
    steps, member, other = StepClock(Pace(step_ms=1)), Member(9), Member(3)
    steps.join(member.step)
    steps.join(other.step)
    steps.leave(member.step)
    async with asyncio.timeout(60):
        await other.done.wait()
    assert member.times_s == []
