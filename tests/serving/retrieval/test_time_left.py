"""A client's own time over several steps."""

from __future__ import annotations

import asyncio

import pytest

from serving.domain.calls import RequestOptions
from serving.domain.errors import DeadlineExceeded
from serving.retrieval.time_left import TimeLeft


async def test_step_has_what_those_before_it_left() -> None:
    left = TimeLeft(RequestOptions("background", timeout_s=5.0))
    await asyncio.sleep(0.05)
    options = left.options()
    assert options.priority == "background"
    assert options.timeout_s is not None
    assert 4.0 < options.timeout_s <= 4.96


async def test_step_does_not_begin_when_nothing_is_left() -> None:
    left = TimeLeft(RequestOptions(timeout_s=0.01))
    await asyncio.sleep(0.02)
    with pytest.raises(DeadlineExceeded):
        left.options()
    with pytest.raises(DeadlineExceeded):
        async with left.limit():
            pytest.fail("It began.")


async def test_client_without_a_deadline_has_time() -> None:
    left = TimeLeft(RequestOptions())
    async with left.limit():
        await asyncio.sleep(0)
    assert left.options() == RequestOptions()


async def test_timeout_of_a_step_s_own_is_not_the_client_s() -> None:
    with pytest.raises(TimeoutError):
        async with TimeLeft(RequestOptions(timeout_s=5.0)).limit():
            raise TimeoutError
