"""One measurement: a closed loop against one server while every other one is frozen.

Says what disturbed it and leaves the consequences to the summary.
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
# Enough requests that a measurement takes some seconds; at least two for each stream.
_REQUESTS = 16
_MOST_WAVES = 6


class MeasurementError(RuntimeError):
    """A server does not answer as it must, so no figure of it means anything."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the comparison. Two entries with one server are an A/A pair.

    Attributes:
        label: Name in the results.
        server: What is measured.
        prompt_set: Entries of one server need different sets, or the second would find the
            first's prompts in its prefix cache. 0 to 4; thaws use 5 to 9.
    """

    label: str
    server: Server
    prompt_set: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one closed loop gave.

    Attributes:
        wall_s: First start to last end.
        cpu_s: Of the server's whole process tree. vLLM's worker spins between steps, so idle
            waiting inside a run counts as well.
        client_cpu_s: Of the load client.
        conditions: What else ran on the machine.
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
        """Output tokens a second of wall time, all streams together."""
        return self.output_tokens / self.wall_s

    @property
    def failure(self) -> str | None:
        """Why the figures are of no use; None if every request was served in full."""
        return _first_failure(self.records, MAX_TOKENS)

    @property
    def disturbance(self) -> str | None:
        """Why the figures may say more of the machine than of the server; None if quiet."""
        return self.conditions.disturbance


def measure(entry: Entry, *, streams: int, round_number: int) -> Measurement:
    """Run one closed loop against `entry`, whose server is frozen before and after.

    Args:
        entry: What is measured.
        streams: Concurrent streams, 1 to 999.
        round_number: 0 to 99; with `streams` it decides the prompts, equal for each entry.
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
    """The server awake and in step again: the first answers after a thaw are late."""
    server = entry.server
    with server.awake():
        seed = _seed(streams, round_number)
        texts = prompts(streams, seed=seed, series=_series(entry.prompt_set + 5, seed))
        _closed_loop(server.arm, _encoded(server.arm, texts, _WARM_UP_TOKENS), streams)
        yield


def warm_up(server: Server, *, streams: int) -> None:
    """Wait for the first answer, then let `streams` run at once.

    Raises:
        MeasurementError: If a request is not answered in full.
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
    """What a server takes while it does nothing. `idle_cpu_share` is of one core."""

    arm: str
    ready_s: float
    pss_bytes: int
    idle_cpu_share: float


def footprints(servers: Sequence[Server], ready_s: Sequence[float]) -> list[Footprint]:
    """Thaw all `servers` and measure memory and idle CPU at once. Call it after they were used.

    Args:
        servers: Whose footprint is asked for.
        ready_s: Of each server, from its start to its first answer.
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
    """Records, and CPU seconds of the client itself."""
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
    """A series of its own for each set and seed, apart from the warm-up's 0."""
    return prompt_set * 100_000 + seed


def _first_failure(records: Sequence[RequestRecord], tokens: int) -> str | None:
    for record in records:
        if record.error:
            return record.error
        if record.completion_tokens != tokens:
            return f"{record.completion_tokens} tokens in place of {tokens}"
    return None
