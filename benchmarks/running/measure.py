"""One measurement: a closed loop against one server while all others are frozen.

Reports disturbances; the summary decides what follows from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time, sleep

from benchmarks.client.load_client import Target, closed_loop, encode_chat
from benchmarks.client.prompts import prompts
from benchmarks.client.records import RequestRecord
from benchmarks.running.arms import API_KEY, HOST, Arm
from benchmarks.running.machine import Conditions, conditions, tree_pss_bytes, usage
from benchmarks.running.processes import READY_DEADLINE_S, THAW_S, Server

MAX_TOKENS = 64
REQUEST_DEADLINE_S = 120.0
IDLE_WINDOW_S = 5.0
_WARM_UP_TOKENS = 16
# Enough requests for some seconds, and at least two per stream.
_REQUESTS = 16
_MOST_WAVES = 6


class MeasurementError(RuntimeError):
    """A server's answers are wrong, so its figures are meaningless."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the comparison. Two entries with one server form an A/A pair.

    Attributes:
        label: Name in the results.
        server: The server to measure.
        prompt_set: Set of prompts, 0 to 4. Entries of one server need different sets, or the second
            would profit from the prefix cache of the first. Thaws use sets 5 to 9.
    """

    label: str
    server: Server
    prompt_set: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one closed loop.

    Attributes:
        wall_s: Seconds from the first start to the last end.
        cpu_s: CPU time of the server's process tree. vLLM's worker spins between steps, so this
            includes idle waiting.
        client_cpu_s: CPU time of the load client.
        conditions: Other load on the machine.
    """

    round_number: int
    label: str
    streams: int
    records: tuple[RequestRecord, ...]
    wall_s: float
    cpu_s: float
    client_cpu_s: float
    conditions: Conditions

    @property
    def output_tokens(self) -> int:
        """Completion tokens of all requests."""
        return sum(record.completion_tokens for record in self.records)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of wall time, over all streams."""
        return self.output_tokens / self.wall_s

    @property
    def failure(self) -> str | None:
        """Reason why the figures are useless; None if every request was served."""
        return _first_failure(self.records, MAX_TOKENS)

    @property
    def disturbance(self) -> str | None:
        """Why the machine may have distorted the figures; None if it was quiet."""
        return self.conditions.disturbance


def measure(entry: Entry, *, streams: int, round_number: int) -> Measurement:
    """Run one closed loop against `entry`, whose server is frozen before and after.

    Args:
        entry: The entry to measure.
        streams: Number of concurrent streams, 1 to 999.
        round_number: Index of the round, 0 to 99. With `streams`, it determines the prompts.
    """
    requests = _requests(entry, streams=streams, round_number=round_number)
    with _thawed(entry, streams=streams, round_number=round_number):
        roots = entry.server.pids()
        before = usage([roots])
        records, client_cpu_s = _closed_loop(entry.server.arm, requests, streams)
        after = usage([roots])
    (cpu_s,) = after.trees_since(before)
    return Measurement(
        round_number=round_number,
        label=entry.label,
        streams=streams,
        records=records,
        wall_s=max(r.end_s for r in records) - min(r.start_s for r in records),
        cpu_s=cpu_s,
        client_cpu_s=client_cpu_s,
        conditions=conditions(before, after, own_s=cpu_s),
    )


@contextmanager
def _thawed(entry: Entry, *, streams: int, round_number: int) -> Iterator[None]:
    """Thaw the server and let it catch up, because the first answers after a thaw are late."""
    server = entry.server
    with server.awake():
        seed = _seed(streams, round_number)
        texts = prompts(streams, seed=seed, series=_series(entry.prompt_set + 5, seed))
        _closed_loop(server.arm, _encoded(server.arm, texts, _WARM_UP_TOKENS), streams)
        yield


def warm_up(server: Server, *, streams: int) -> None:
    """Wait for the first answer, then run `streams` requests at once.

    Raises:
        MeasurementError: A request is not answered completely.
    """
    texts = prompts(1 + streams, seed=0, series=0)
    first, *rest = _encoded(server.arm, texts, _WARM_UP_TOKENS)
    loop = closed_loop(_target(server.arm), [first], streams=1, deadline_s=READY_DEADLINE_S)
    records = asyncio.run(loop)
    records += _closed_loop(server.arm, rest, streams)[0]
    if failure := _first_failure(records, _WARM_UP_TOKENS):
        raise MeasurementError(f"{server.arm.name} at warm-up: {failure}; log: {server.log}")


@dataclass(frozen=True, slots=True)
class Footprint:
    """The cost of an idle server. `idle_cpu_share` is of one core."""

    arm: str
    ready_s: float
    pss_bytes: int
    idle_cpu_share: float


def footprints(servers: Sequence[Server], ready_s: Sequence[float]) -> list[Footprint]:
    """Thaw all `servers`, and measure memory and idle CPU. Call it after the servers were used.

    Args:
        servers: The servers to measure.
        ready_s: Seconds from each server's start to its first answer.
    """
    for server in servers:
        server.thaw()
    sleep(THAW_S)
    roots = [server.pids() for server in servers]
    before = usage(roots)
    sleep(IDLE_WINDOW_S)
    idle_s = usage(roots).trees_since(before)
    return [
        Footprint(
            arm=server.arm.name,
            ready_s=ready,
            pss_bytes=tree_pss_bytes(pids),
            idle_cpu_share=used_s / IDLE_WINDOW_S,
        )
        for server, ready, pids, used_s in zip(servers, ready_s, roots, idle_s, strict=True)
    ]


def _closed_loop(
    arm: Arm, requests: Sequence[bytes], streams: int
) -> tuple[tuple[RequestRecord, ...], float]:
    """Return the records, and the CPU seconds of the client."""
    before_s = process_time()
    loop = closed_loop(_target(arm), requests, streams=streams, deadline_s=REQUEST_DEADLINE_S)
    return asyncio.run(loop), process_time() - before_s


def _target(arm: Arm) -> Target:
    return Target(host=HOST, port=arm.port, model=arm.model, api_key=API_KEY)


def _encoded(arm: Arm, texts: Sequence[str], max_tokens: int) -> list[bytes]:
    return [encode_chat(_target(arm), text, max_tokens=max_tokens) for text in texts]


def _requests(entry: Entry, *, streams: int, round_number: int) -> list[bytes]:
    count = streams * max(2, min(_MOST_WAVES, _REQUESTS // streams))
    seed = _seed(streams, round_number)
    texts = prompts(count, seed=seed, series=_series(entry.prompt_set, seed))
    return _encoded(entry.server.arm, texts, MAX_TOKENS)


def _seed(streams: int, round_number: int) -> int:
    return streams * 100 + round_number


def _series(prompt_set: int, seed: int) -> int:
    """Return a unique series for each set and seed, different from the warm-up's 0."""
    return prompt_set * 100_000 + seed


def _first_failure(records: Sequence[RequestRecord], tokens: int) -> str | None:
    for record in records:
        if record.error:
            return record.error
        if record.completion_tokens != tokens:
            return f"{record.completion_tokens} tokens in place of {tokens}"
    return None
