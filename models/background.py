"""Background loops: work that a process repeats beside its requests, and that outlives its errors.

Knows nothing of what a step does. An error of a step is logged by its type and its place, never by
its text, which may hold a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("ringfence.background")

LONGEST_PAUSE_S = 5.0
"""The longest wait after failures, unless the loop itself is slower."""

FIRST_PAUSE_S = 0.1
"""The shortest wait after a failure."""

SAY_AGAIN_S = 3600.0
"""The time after which the same kind of error of the same loop is logged again."""

CLOSE_S = 5.0
"""The time that a step has to end once its loop is closed."""


@dataclass(frozen=True, slots=True)
class LoopState:
    """How a loop fares.

    Attributes:
        name: of the loop.
        failures: steps that failed since the start.
        success_age_s: seconds since a step last succeeded, or since the start if none has; None
            if the loop does not run or its work is done.
    """

    name: str
    failures: int
    success_age_s: float | None


class BackgroundLoop:
    """Runs a step again and again, whatever a step raises, until it is closed.

    After a failure it waits as after a success, then twice as long after each further one. Times
    are those of the event loop.

    Args:
        name: in logs and metrics.
        step: one turn of the work. It bounds its own waits.
        every_s: the pause between two steps; a function is asked after each.
        at_once: whether the first step comes before the first pause.
        once: whether the work is done with the first step that succeeds.
        longest_s: the longest pause after failures.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[object]],
        *,
        every_s: float | Callable[[], float],
        at_once: bool = False,
        once: bool = False,
        longest_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.name = name
        self._step = step
        self._every_s = every_s
        self._at_once = at_once
        self._once = once
        self._longest_s = longest_s
        self._failures = 0
        self._failed_in_row = 0
        self._succeeded_at = 0.0
        self._said: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._closed = False
        self._time: Callable[[], float] = float
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. To be called once."""
        self._time = asyncio.get_running_loop().time
        self._succeeded_at = self._time()
        self._task = asyncio.create_task(self._run(), name=f"background {self.name}")

    def wake(self) -> None:
        """End the pause, or leave out the next one."""
        self._woken.set()

    def cancel(self) -> None:
        """Begin to stop; `close` waits for the end."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def close(self, *, timeout_s: float = CLOSE_S) -> None:
        """Stop. A step that does not end within `timeout_s` of being cancelled is left behind."""
        self.cancel()
        if self._task is None:
            return
        _, running = await asyncio.wait({self._task}, timeout=timeout_s)
        if running:
            logger.error("background loop %s does not end", self.name)

    @property
    def runs(self) -> bool:
        """Whether it was started, and has neither been closed nor done its work."""
        return self._task is not None and not self._task.done()

    def state(self) -> LoopState:
        """How it fares now."""
        age_s = self._time() - self._succeeded_at if self.runs else None
        return LoopState(self.name, self._failures, age_s)

    async def _run(self) -> None:
        if not self._at_once:
            await self._pause()
        while not self._closed:
            self._woken.clear()
            try:
                await self._step()
            except asyncio.CancelledError as error:  # Perhaps of what the step waited for.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                self._fail(error)
            except Exception as error:  # noqa: BLE001  The loop goes on whatever a step raises.
                self._fail(error)
            else:
                self._failed_in_row, self._succeeded_at = 0, self._time()
                if self._once:
                    return
            await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s()):
                await self._woken.wait()

    def _pause_s(self) -> float:
        every_s = self._every_s() if callable(self._every_s) else self._every_s
        if not self._failed_in_row:
            return every_s
        doubled_s = max(every_s, FIRST_PAUSE_S) * 2.0 ** min(self._failed_in_row - 1, 32)
        return min(doubled_s, max(every_s, self._longest_s))

    def _fail(self, error: BaseException) -> None:
        self._failures += 1
        self._failed_in_row += 1
        kind, now = type(error).__name__, self._time()
        if now - self._said.get(kind, float("-inf")) >= SAY_AGAIN_S:
            self._said[kind] = now
            place = _place(error)
            logger.error("background loop %s failed, and goes on: %s%s", self.name, kind, place)


async def close_all(loops: Iterable[BackgroundLoop]) -> None:
    """Close loops at the same time."""
    await asyncio.gather(*(loop.close() for loop in loops))


def _place(error: BaseException) -> str:
    """Where an error was raised; code only, no value."""
    if not (frames := traceback.extract_tb(error.__traceback__)):
        return ""
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
