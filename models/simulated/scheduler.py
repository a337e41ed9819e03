"""Continuous batching in simulated time: which sequences run, and how long a step takes.

Every step advances each running sequence by one token. It takes `step_base_ms +
step_per_sequence_ms * batch`, plus the prefill of new sequences (iteration-level scheduling: Orca,
Yu et al., OSDI 2022). Knows nothing of text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from models.catalog import Simulation

Sleep = Callable[[float], Awaitable[object]]


@dataclass(slots=True, eq=False)
class ScheduledSequence:
    """A choice as the scheduler sees it: a prompt to prefill and tokens to produce.

    `ready` is set after each step; the sequences of one request share it.
    """

    prefill_tokens: int
    length: int
    ready: asyncio.Event
    produced: int = 0
    lost: bool = False


class Scheduler:
    """Runs at most `max_batch` sequences in order of arrival; the others wait.

    Its task exists only while there is work, so an idle scheduler costs nothing.

    Args:
        simulation: the step-time model.
        sleep: waits for a number of seconds.
    """

    def __init__(self, simulation: Simulation, *, sleep: Sleep) -> None:
        self._simulation = simulation
        self._sleep = sleep
        self._running: dict[ScheduledSequence, None] = {}
        self._waiting: dict[ScheduledSequence, None] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Number of sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place in the batch."""
        return len(self._waiting)

    @contextmanager
    def scheduled(self, sequences: Sequence[ScheduledSequence]) -> Iterator[None]:
        """Run the sequences during the block; their places are freed at its end."""
        self._waiting.update(dict.fromkeys(sequences))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="simulated-scheduler")
        try:
            yield
        finally:
            for sequence in sequences:
                self._running.pop(sequence, None)
                self._waiting.pop(sequence, None)

    async def _run(self) -> None:
        try:
            while self._running or self._waiting:
                prefill_tokens = self._admit()
                await self._sleep(self._step_s(prefill_tokens))
                self._advance()
        finally:
            self._lose()

    def _admit(self) -> int:
        """Fill the batch from the queue; returns the number of tokens to prefill."""
        free = self._simulation.max_batch - len(self._running)
        admitted = list(islice(self._waiting, free))
        for sequence in admitted:
            del self._waiting[sequence]
            self._running[sequence] = None
        return sum(sequence.prefill_tokens for sequence in admitted)

    def _step_s(self, prefill_tokens: int) -> float:
        model = self._simulation
        decode_ms = model.step_base_ms + model.step_per_sequence_ms * len(self._running)
        return (decode_ms + model.prefill_ms_per_token * prefill_tokens) / 1000

    def _advance(self) -> None:
        for sequence in list(self._running):
            sequence.produced += 1
            if sequence.produced == sequence.length:
                del self._running[sequence]
            sequence.ready.set()

    def _lose(self) -> None:
        """Wake the sequences that would wait for a stopped scheduler."""
        for sequence in (*self._running, *self._waiting):
            sequence.lost = True
            sequence.ready.set()
        self._running.clear()
        self._waiting.clear()
