"""A background loop outlives whatever its steps raise, says so without text, and can be closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest

from models.background import SAY_AGAIN_S, BackgroundLoop, close_all
from tests.serving.virtual_time import now, run

DAY_S = 86_400.0


class Steps:
    """Steps that note when they ran, and raise what they are told to, in turn."""

    def __init__(self, *errors: BaseException | None) -> None:
        self._errors = iter(errors)
        self.at: list[float] = []

    async def __call__(self) -> None:
        self.at.append(now())
        if (error := next(self._errors, None)) is not None:
            raise error


def always(error: Exception) -> Iterator[Exception]:
    while True:
        yield error


def ran(loop: BackgroundLoop, seconds: float) -> None:
    """Let a loop run for so long."""

    async def work() -> None:
        loop.start()
        await asyncio.sleep(seconds)
        await loop.close()

    run(work())


def test_loop_runs_its_step_after_every_pause() -> None:
    steps = Steps()
    ran(BackgroundLoop("one", steps, every_s=10), 35)
    assert steps.at == [10, 20, 30]


def test_loop_can_begin_at_once() -> None:
    steps = Steps()
    ran(BackgroundLoop("one", steps, every_s=10, at_once=True), 25)
    assert steps.at == [0, 10, 20]


def test_pause_is_asked_for_after_each_step() -> None:
    steps, pauses = Steps(), iter([1.0, 2.0, 4.0, 100.0])
    ran(BackgroundLoop("one", steps, every_s=lambda: next(pauses)), 50)
    assert steps.at == [1, 3, 7]


def test_failures_are_followed_by_longer_pauses_until_a_step_succeeds() -> None:
    steps = Steps(*[KeyError()] * 5, None, KeyError())
    ran(BackgroundLoop("one", steps, every_s=2, at_once=True, longest_s=10), 42)
    assert steps.at == [0, 2, 6, 14, 24, 34, 36, 38, 40]


def test_pauses_stay_bounded_however_often_a_step_fails() -> None:
    steps = Steps()
    steps._errors = always(ValueError())
    ran(BackgroundLoop("one", steps, every_s=1, longest_s=30), DAY_S)
    pauses = [later - at for at, later in zip(steps.at, steps.at[1:], strict=False)]
    assert max(pauses) == 30
    assert len(pauses) > DAY_S / 31


def test_loop_without_a_pause_waits_after_a_failure() -> None:
    steps = Steps()
    steps._errors = always(ValueError())
    ran(BackgroundLoop("one", steps, every_s=0, longest_s=1), 60)
    assert 55 < len(steps.at) < 70


def test_loop_that_is_slower_than_the_longest_pause_keeps_its_own() -> None:
    steps = Steps(KeyError(), KeyError())
    ran(BackgroundLoop("one", steps, every_s=60, longest_s=30), 200)
    assert steps.at == [60, 120, 180]


def test_wake_ends_a_pause() -> None:
    steps = Steps()

    async def work() -> None:
        loop = BackgroundLoop("one", steps, every_s=100)
        loop.start()
        await asyncio.sleep(7)
        loop.wake()
        await asyncio.sleep(50)
        await loop.close()

    run(work())
    assert steps.at == [7]


def test_wake_during_a_step_leaves_the_next_pause_out() -> None:
    at = []

    async def step() -> None:
        at.append(now())
        await asyncio.sleep(5)

    async def work() -> None:
        loop = BackgroundLoop("one", step, every_s=100, at_once=True)
        loop.start()
        await asyncio.sleep(3)
        loop.wake()
        await asyncio.sleep(50)
        await loop.close()

    run(work())
    assert at == [0, 5]


def test_work_that_is_to_be_done_once_ends_with_its_first_success() -> None:
    steps = Steps(OSError(), OSError(), None)
    loop = BackgroundLoop("one", steps, every_s=5, at_once=True, once=True)
    ran(loop, 100)
    assert steps.at == [0, 5, 10]
    assert loop.state().failures == 2


def test_cancellation_of_what_a_step_waits_for_does_not_end_the_loop() -> None:
    steps = Steps(asyncio.CancelledError())
    ran(BackgroundLoop("one", steps, every_s=1), 3.5)
    assert steps.at == [1, 2, 3]


@pytest.mark.parametrize("hold", [False, True])
def test_closed_loop_takes_no_further_step(*, hold: bool) -> None:
    """Also where the step makes nothing of being cancelled."""
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if not hold:
                raise

    async def work() -> None:
        loop = BackgroundLoop("one", step, every_s=1, at_once=True)
        loop.start()
        await asyncio.sleep(3)
        await loop.close()
        await asyncio.sleep(100)

    run(work())
    assert steps == 1


def test_step_that_does_not_end_keeps_nobody_from_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> float:
        let_go = asyncio.Event()

        async def deaf() -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        loops = [BackgroundLoop(name, deaf, every_s=1) for name in ("one", "two")]
        for loop in loops:
            loop.start()
        await asyncio.sleep(2)
        begun = now()
        await close_all(loops)
        waited_s = now() - begun
        let_go.set()
        await asyncio.sleep(0.01)
        return waited_s

    assert run(work()) == 5
    assert caplog.messages == [f"background loop {name} does not end" for name in ("one", "two")]


def test_loop_that_was_never_started_can_be_closed() -> None:
    loop = BackgroundLoop("one", Steps(), every_s=1)
    run(loop.close())
    assert (loop.state().failures, loop.state().success_age_s) == (0, None)


def test_failure_is_logged_by_its_kind_and_place_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = Steps(KeyError("the prompt"), KeyError("the prompt"), ValueError("the prompt"))
    with caplog.at_level(logging.INFO):
        ran(BackgroundLoop("one", steps, every_s=1), 20)
    kinds = [message.partition(" (")[0] for message in caplog.messages]
    assert kinds == [
        f"background loop one failed, and goes on: {kind}" for kind in ("KeyError", "ValueError")
    ]
    assert "(test_background.py:" in caplog.text
    assert "prompt" not in caplog.text


def test_failure_that_lasts_is_logged_again_after_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = Steps()
    steps._errors = always(ValueError())
    ran(BackgroundLoop("one", steps, every_s=1), 2.5 * SAY_AGAIN_S)
    assert len(caplog.messages) == 3


def test_state_tells_failures_and_the_age_of_the_last_success() -> None:
    async def at(seconds: float, steps: Callable[[], Awaitable[None]]) -> tuple[int, float | None]:
        loop = BackgroundLoop("one", steps, every_s=10, longest_s=10)
        loop.start()
        await asyncio.sleep(seconds)
        state = loop.state()
        await loop.close()
        assert loop.state().success_age_s is None
        return state.failures, state.success_age_s

    assert run(at(5, Steps())) == (0, 5)
    assert run(at(25, Steps())) == (0, 5)
    assert run(at(45, Steps(None, KeyError(), KeyError(), KeyError()))) == (3, 35)
