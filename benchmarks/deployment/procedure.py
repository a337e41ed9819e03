"""Measures a running deployment: a saturation curve, then arrivals around its knee.

Closed loop: each of n streams sends its next request once the last one is answered, for rising n.
Open loop: requests arrive at a given rate, answered or not. A step sends for `duration_s` and then
waits for pending answers. Does not start, stop or configure servers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, islice
from time import perf_counter, process_time

from benchmarks.client.endpoint import DeploymentError, Model, url_of, without_secrets
from benchmarks.client.load_client import Target, closed_loop, encode_chat, open_loop
from benchmarks.client.prompts import texts
from benchmarks.client.records import RequestRecord
from benchmarks.deployment.plan import KNEE_SHARES, BenchPlan
from benchmarks.deployment.result import Result, this_machine
from benchmarks.deployment.step import LoadStep, figures, knee

MOST_ARRIVALS = 100_000
INTERRUPTED = "interrupted"

Phase = Callable[[str], AbstractContextManager[None]]
Records = tuple[RequestRecord, ...]


def run(
    target: Target, model: Model, plan: BenchPlan, *, command: tuple[str, ...], phase: Phase
) -> Result:
    """Measure `model`. After a failure or Ctrl-C, the completed steps are the result.

    Args:
        target: The endpoint that serves the model.
        model: The model to measure.
        plan: The load.
        command: The command that repeats the run. It is published, so it must not contain the key.
        phase: See `measure`.

    Raises:
        DeploymentError: The run failed before the first step was completed.
        KeyboardInterrupt: The run was interrupted before that.
    """
    began, began_s, client = datetime.now(UTC), perf_counter(), this_machine()
    steps: list[LoadStep] = []
    ended = None
    try:
        for step in measure(replace(target, model=model.id), plan, phase=phase):
            steps.append(step)  # noqa: PERF402  An interrupt must not lose those before it.
    except (DeploymentError, KeyboardInterrupt) as error:
        if not steps:
            raise
        ended = str(error) or INTERRUPTED
    return Result(
        began=began,
        took_s=perf_counter() - began_s,
        command=command,
        url=url_of(target),
        model=model.id,
        simulated=model.simulated,
        plan=plan,
        client=client,
        ended=ended,
        steps=tuple(steps),
    )


def measure(target: Target, plan: BenchPlan, *, phase: Phase) -> Iterator[LoadStep]:
    """Warm up, then yield each completed step: closed loop first, then open loop.

    Args:
        target: The endpoint to measure.
        plan: The load.
        phase: Context manager that shows the current phase.

    Raises:
        DeploymentError: The server does not answer, or every request of a step failed.
    """
    with _ctrl_c_held_back(), asyncio.Runner() as runner:
        traffic = _Traffic(target, plan, runner)
        with phase("Warming up"):
            traffic.warm_up()
        closed = []
        for streams in plan.streams:
            with phase(f"{streams} stream{'' if streams == 1 else 's'}, closed loop"):
                closed.append(traffic.closed(streams))
            yield closed[-1]
        for index, rate_per_s in enumerate(_rates(plan, closed)):
            with phase(f"{rate_per_s:.3g} requests/s, open loop"):
                step = traffic.open(rate_per_s, seed=plan.seed + index)
            yield step


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Defer Ctrl-C until the next load, because elsewhere it would break asyncio."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _interruptible(load: Coroutine[None, None, Records]) -> Records:
    """Run the load; Ctrl-C cancels it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        return await load
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _rates(plan: BenchPlan, closed: Sequence[LoadStep]) -> tuple[float, ...]:
    if plan.rates_per_s is not None:
        return plan.rates_per_s
    if not closed:
        return ()
    return tuple(share * knee(closed).requests_per_s for share in KNEE_SHARES)


class _Traffic:
    """The requests of one run: the same texts in each step, each with a number of its own."""

    def __init__(self, target: Target, plan: BenchPlan, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._target = target
        self._plan = plan
        self._numbers = count(plan.first_number)

    def warm_up(self) -> None:
        """Send one request alone, which reveals errors, then the others concurrently."""
        requests = self._requests()
        self._sent(self._closed(islice(requests, 1), 1))
        if self._plan.warm_up > 1:
            streams = min(self._plan.warm_up - 1, max(self._plan.streams, default=1))
            self._sent(self._closed(islice(requests, self._plan.warm_up - 1), streams))

    def closed(self, streams: int) -> LoadStep:
        """Run one closed-loop step; each stream sends at least one request."""
        timed = _for_seconds(self._plan.duration_s, self._requests())
        records, client_cpu_s = self._sent(self._closed(timed, streams))
        return self._figures(records, client_cpu_s, streams=streams)

    def open(self, rate_per_s: float, *, seed: int) -> LoadStep:
        """Run one open-loop step with at least one request."""
        arrivals = max(1, min(MOST_ARRIVALS, round(rate_per_s * self._plan.duration_s)))
        load = open_loop(
            self._target,
            list(islice(self._requests(), arrivals)),
            rate_per_s=rate_per_s,
            seed=seed,
            deadline_s=self._plan.timeout_s,
        )
        records, client_cpu_s = self._sent(load)
        return self._figures(records, client_cpu_s, rate_per_s=rate_per_s)

    def _requests(self) -> Iterator[bytes]:
        shortest, longest = self._plan.prompt_words
        prompts = texts(
            self._numbers, seed=self._plan.seed, shortest_words=shortest, longest_words=longest
        )
        for prompt in prompts:
            yield encode_chat(self._target, prompt, max_tokens=self._plan.max_tokens)

    def _closed(self, requests: Iterator[bytes], streams: int) -> Coroutine[None, None, Records]:
        return closed_loop(self._target, requests, streams=streams, deadline_s=self._plan.timeout_s)

    def _sent(self, load: Coroutine[None, None, Records]) -> tuple[Records, float]:
        """Return the records of the load, and the CPU seconds of this process."""
        before_s = process_time()
        try:
            with closing(load):  # Ctrl-C may come before the coroutine has started.
                records = self._runner.run(_interruptible(load))
        except OSError as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise DeploymentError(f"{url_of(self._target)}: {reason}") from None
        cpu_s = process_time() - before_s
        told = tuple(self._without_secrets(record) for record in records)
        if all(record.error for record in told):
            raise DeploymentError(f"every request failed, the first with: {told[0].error}")
        return told, cpu_s

    def _without_secrets(self, record: RequestRecord) -> RequestRecord:
        if record.error is None:
            return record
        return replace(record, error=without_secrets(record.error, self._target))

    def _figures(
        self,
        records: Records,
        client_cpu_s: float,
        *,
        streams: int | None = None,
        rate_per_s: float | None = None,
    ) -> LoadStep:
        return figures(
            records,
            max_tokens=self._plan.max_tokens,
            limits=self._plan.limits,
            client_cpu_s=client_cpu_s,
            streams=streams,
            rate_per_s=rate_per_s,
        )


def _for_seconds(duration_s: float, requests: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `requests` until `duration_s` after the first was taken."""
    end_s = perf_counter() + duration_s
    for request in requests:
        yield request
        if perf_counter() >= end_s:
            return
