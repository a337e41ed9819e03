"""A client's own time over several steps."""

from __future__ import annotations

import asyncio

import pytest

from serving.domain.calls import RequestOptions
from serving.domain.errors import DeadlineExceeded
from serving.domain.time_left import TimeLeft
from tests.serving import virtual_time


def test_step_has_what_those_before_it_left() -> None:
    async def second_step() -> RequestOptions:
        left = TimeLeft(RequestOptions("background", timeout_s=5.0))
        await asyncio.sleep(2.0)
        return left.options()

    assert virtual_time.run(second_step()) == RequestOptions("background", timeout_s=3.0)


def test_step_does_not_begin_when_nothing_is_left() -> None:
    async def late_step() -> None:
        left = TimeLeft(RequestOptions(timeout_s=5.0))
        await asyncio.sleep(5.0)
        with pytest.raises(DeadlineExceeded):
            left.options()
        with pytest.raises(DeadlineExceeded):
            async with left.limit():
                pytest.fail("It began.")

    virtual_time.run(late_step())


def test_step_ends_with_the_client_s_time() -> None:
    async def long_step() -> float:
        left = TimeLeft(RequestOptions(timeout_s=5.0))
        await asyncio.sleep(2.0)
        with pytest.raises(DeadlineExceeded):
            async with left.limit():
                await asyncio.sleep(60.0)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(long_step()) == 5.0


async def test_client_without_a_deadline_has_time() -> None:
    left = TimeLeft(RequestOptions())
    async with left.limit():
        await asyncio.sleep(0)
    assert left.options() == RequestOptions()


async def test_timeout_of_a_step_s_own_is_not_the_client_s() -> None:
    with pytest.raises(TimeoutError):
        async with TimeLeft(RequestOptions(timeout_s=5.0)).limit():
            raise TimeoutError
