"""Open streams in steady state: their cost, and the regularity of their tokens.

The window begins once every stream has had a token, and ends while all are open, so it contains
no beginning or end of a request.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from time import perf_counter

from benchmarks.client.gap_reader import GapReader
from benchmarks.client.load_client import closed_loop
from benchmarks.client.records import RequestRecord
from benchmarks.gateways.contenders import Contender
from benchmarks.running.spending import Spent, Watched, read, spent

OPEN_DEADLINE_S = 60.0
# The gateway cleans up after the hang-up before the next window begins.
_HANG_UP_S = 1.0
_SETTLE_S = 0.5
_POLL_S = 0.05
_LAG_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Steady:
    """The result of a window.

    Attributes:
        tokens: Number of tokens that arrived in the window.
        gaps_s: Gaps between tokens of one stream within the window.
        lags_s: Delays of a 10 ms timer in the client, which the client adds to gaps.
        spent: CPU time in the window.
        failure: Reason why the figures are useless, or None.
    """

    tokens: int
    gaps_s: Sequence[float]
    lags_s: Sequence[float]
    spent: Spent
    failure: str | None


async def steady(
    contender: Contender, path: Watched, *, streams: int, window_s: float, tokens: int
) -> Steady:
    """Open `streams`, measure for `window_s`, and hang up.

    Args:
        contender: The gateway.
        path: Its processes.
        streams: Number of streams, each of one request.
        window_s: Length of the window in seconds.
        tokens: Tokens of each request: more than it can receive before the window ends.

    Returns:
        The figures of the window. The gateway has had time to notice the hang-up.
    """
    readers: list[GapReader] = []

    def reader() -> GapReader:
        readers.append(GapReader())
        return readers[-1]

    chats = list(islice(contender.chats(max_tokens=tokens, stream=True), streams))
    deadline_s = 2 * OPEN_DEADLINE_S + window_s
    loop = closed_loop(
        contender.target, chats, streams=streams, deadline_s=deadline_s, reader=reader
    )
    load = asyncio.create_task(loop)
    lags = _Lags()
    try:
        opened = await _opened(load, readers, streams)
        await asyncio.sleep(_SETTLE_S)
        async with lags:
            before = read(path)
            await asyncio.sleep(window_s)
            after = read(path)
    finally:
        ended = load.done()
        load.cancel()
        with suppress(asyncio.CancelledError):
            records = await load
        await asyncio.sleep(_HANG_UP_S)
    failure = None if opened else f"not all of {streams} streams had a token in time"
    if ended:
        failure = _first_error(records) or "a stream ended before the window did"
    begin_s, end_s = before.at_s, after.at_s
    inside = [_between(r.times_s, begin_s, end_s) for r in readers]
    return Steady(
        tokens=sum(map(len, inside)),
        gaps_s=[b - a for times in inside for a, b in pairwise(times)],
        lags_s=lags.seen_s,
        spent=spent(before, after),
        failure=failure or _silent(inside),
    )


async def _opened(
    load: asyncio.Task[tuple[RequestRecord, ...]], readers: Sequence[GapReader], streams: int
) -> bool:
    give_up_s = perf_counter() + OPEN_DEADLINE_S
    while perf_counter() < give_up_s and not load.done():
        if len(readers) >= streams and sum(bool(r.times_s) for r in readers) >= streams:
            return True
        await asyncio.sleep(_POLL_S)
    return False


def _first_error(records: Sequence[RequestRecord]) -> str | None:
    return next((record.error for record in records if record.error), None)


def _between(times_s: Sequence[float], begin_s: float, end_s: float) -> Sequence[float]:
    return times_s[bisect_left(times_s, begin_s) : bisect_right(times_s, end_s)]


def _silent(inside: Sequence[Sequence[float]]) -> str | None:
    silent = sum(not times for times in inside)
    return f"{silent} streams had no token in the window" if silent else None


class _Lags:
    """Measures the delay of a timer in this event loop during the block."""

    def __init__(self) -> None:
        self.seen_s: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            due_s = perf_counter() + _LAG_TICK_S
            await asyncio.sleep(_LAG_TICK_S)
            self.seen_s.append(perf_counter() - due_s)
