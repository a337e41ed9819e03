"""Studies of unstreamed requests: throughput of one core, and added latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from time import perf_counter

import uvloop

from benchmarks.client.load_client import closed_loop
from benchmarks.client.records import RequestRecord, WholeReader
from benchmarks.gateways.arms import UPSTREAM
from benchmarks.gateways.contenders import Contender
from benchmarks.gateways.studies.study import REQUEST_DEADLINE_S, Column, Outcome, Sample, Study
from benchmarks.reporting.statistics import percentile
from benchmarks.running.machine import worst
from benchmarks.running.pinning import pinned_here
from benchmarks.running.spending import Spent, Watched, read, spent
from benchmarks.servers.steps import Pace

TOKENS = 16
CONCURRENCY = (16, 64)
WINDOW_S = 4.0
_RAMP_S = 1.0
LATENCY_REQUESTS = 100
_LATENCY_WARM_UP = 20


def requests_per_second(contender: Contender, *, window_s: float = WINDOW_S) -> Outcome:
    """Run a closed loop at each concurrency, and count the answers within the window."""
    values: dict[str, float] = {}
    failures, details, seen = [], [], []
    with contender.awake() as path, pinned_here(contender.cores.client):
        for streams in CONCURRENCY:
            records, rate, used = _saturated(contender, path, streams, window_s)
            values |= {
                f"rps_{streams}": rate,
                f"gateway_core_{streams}": used.gateway_core_share * 100,
                f"client_core_{streams}": used.client_core_share * 100,
                f"p99_ms_{streams}": percentile([r.e2e_s for r in records], 99) * 1000,
            }
            failures += [record.error for record in records if record.error]
            seen.append(used.conditions)
            details.append({"streams": streams, "requests": len(records), "spent": used})
    failure = f"{len(failures)} failed: {failures[0]}" if failures else None
    return Outcome(values, failure, worst(seen), details)


def _saturated(
    contender: Contender, path: Watched, streams: int, window_s: float
) -> tuple[tuple[RequestRecord, ...], float, Spent]:
    chats = contender.chats(max_tokens=TOKENS, stream=False)
    begin_s = perf_counter() + _RAMP_S
    end_s = begin_s + window_s
    before = read(path)
    records = uvloop.run(
        closed_loop(
            contender.target,
            _until(end_s, chats),
            streams=streams,
            deadline_s=REQUEST_DEADLINE_S,
            reader=WholeReader,
        )
    )
    used = spent(before, read(path))
    served = sum(begin_s <= record.end_s < end_s for record in records)
    return records, served / window_s, used


def _until(end_s: float, chats: Iterator[bytes]) -> Iterator[bytes]:
    while perf_counter() < end_s:
        yield next(chats)


def latency(contender: Contender) -> Outcome:
    """Send one request after another on one connection."""
    with contender.awake() as path, pinned_here(contender.cores.client):
        chats = contender.chats(max_tokens=TOKENS, stream=False)
        before = read(path)
        records = uvloop.run(
            closed_loop(
                contender.target,
                islice(chats, _LATENCY_WARM_UP + LATENCY_REQUESTS),
                streams=1,
                deadline_s=REQUEST_DEADLINE_S,
                reader=WholeReader,
            )
        )
        used = spent(before, read(path))
    times_ms = [record.e2e_s * 1000 for record in records[_LATENCY_WARM_UP:]]
    return Outcome(
        values={"p50_ms": percentile(times_ms, 50), "p99_ms": percentile(times_ms, 99)},
        failure=next((record.error for record in records if record.error), None),
        conditions=used.conditions,
    )


def added_latency(samples: Sequence[Sample]) -> list[Sample]:
    """Add `added_p50_ms`: the p50 minus that of the upstream alone in the same round."""
    direct_ms = {
        s.round_number: s.outcome.values.get("p50_ms") for s in samples if s.label == UPSTREAM
    }
    derived = []
    for sample in samples:
        floor_ms = direct_ms.get(sample.round_number)
        values = dict(sample.outcome.values)
        if floor_ms is not None and "p50_ms" in values and sample.label != UPSTREAM:
            values["added_p50_ms"] = values["p50_ms"] - floor_ms
        derived.append(replace(sample, outcome=replace(sample.outcome, values=values)))
    return derived


UNARY_RPS = Study(
    name="unary-rps",
    procedure=(
        f"Unstreamed requests of {TOKENS} tokens, no pacing, a closed loop of "
        f"{' and of '.join(map(str, CONCURRENCY))} connections, {WINDOW_S:.0f} s each after "
        f"{_RAMP_S:.0f} s. Every thread of the gateway is on one core; client, mock and simulated "
        "engine share the other. A gateway whose own core is not full was held up by the other."
    ),
    pace=Pace(),
    columns=[
        column
        for n in CONCURRENCY
        for column in (
            Column(f"rps_{n}", f"requests/s at {n}", digits=0, compared=True),
            Column(f"p99_ms_{n}", f"p99 ms at {n}"),
            Column(f"gateway_core_{n}", f"gateway's core % at {n}", digits=0),
            Column(f"client_core_{n}", f"other core % at {n}", digits=0),
        )
    ],
    run=requests_per_second,
)

UNARY_LATENCY = Study(
    name="unary-latency",
    procedure=(
        f"{LATENCY_REQUESTS} unstreamed requests of {TOKENS} tokens, one after another, no pacing. "
        f"Added: p50 of the round less that of `{UPSTREAM}` in the same round. A simulated engine "
        "inside a gateway's own Ray cluster is part of what is added."
    ),
    pace=Pace(),
    columns=[
        Column("p50_ms", "p50 ms", digits=2),
        Column("p99_ms", "p99 ms", digits=2),
        Column("added_p50_ms", "added p50 ms", digits=2, compared=True),
    ],
    run=latency,
    derive=added_latency,
)
