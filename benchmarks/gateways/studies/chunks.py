"""Studies of CPU per streamed chunk, and of its growth with the number of open streams."""

from __future__ import annotations

from math import ceil
from time import sleep

import uvloop

from benchmarks.gateways.contenders import Contender
from benchmarks.gateways.studies.steady import OPEN_DEADLINE_S, Steady, steady
from benchmarks.gateways.studies.study import Column, Outcome, Study
from benchmarks.running.machine import worst
from benchmarks.running.pinning import pinned_here
from benchmarks.running.spending import Spent, Watched, read, spent
from benchmarks.servers.steps import Pace

STREAMS = 32
TOKENS_PER_S = 50
WINDOW_S = 5.0
IDLE_S = 3.0
FEW, MANY = 10, 1000
# Tokens per second of all streams together, for any number of streams.
GROWTH_TOKENS_PER_S = 1000
# More tokens than a stream receives before the client hangs up.
_TOKENS = ceil(GROWTH_TOKENS_PER_S / FEW * (OPEN_DEADLINE_S + 2 * WINDOW_S))


def chunk_cpu(
    contender: Contender, *, window_s: float = WINDOW_S, idle_s: float = IDLE_S
) -> Outcome:
    """Measure the CPU of the gateway and of the whole path per received token."""
    with contender.awake() as path, pinned_here(contender.cores.client):
        seen = _watched(contender, path, STREAMS, window_s)
        idle = _idle(path, idle_s)
    used = seen.spent
    values = {
        **_per_chunk(seen),
        "client_us": used.client_s / max(1, seen.tokens) * 1e6,
        "chunks_per_s": seen.tokens / used.wall_s,
        "idle_gateway_percent": idle.gateway_s / idle.wall_s * 100,
        "idle_path_percent": (idle.gateway_s + idle.upstream_s) / idle.wall_s * 100,
    }
    return Outcome(values, seen.failure, used.conditions)


def _watched(contender: Contender, path: Watched, streams: int, window_s: float) -> Steady:
    watching = steady(contender, path, streams=streams, window_s=window_s, tokens=_TOKENS)
    return uvloop.run(watching)


def _per_chunk(seen: Steady) -> dict[str, float]:
    used, chunks = seen.spent, max(1, seen.tokens)
    return {
        "gateway_us": used.gateway_s / chunks * 1e6,
        "path_us": (used.gateway_s + used.upstream_s) / chunks * 1e6,
    }


def _idle(path: Watched, idle_s: float) -> Spent:
    before = read(path)
    sleep(idle_s)
    return spent(before, read(path))


def growth(contender: Contender, *, many: int = MANY, window_s: float = WINDOW_S) -> Outcome:
    """Compare the same token rate over few streams and over many."""
    with contender.awake() as path, pinned_here(contender.cores.client):
        less = _watched(contender, path, FEW, window_s)
        more = _watched(contender, path, many, window_s)
    values = {f"{name}_few": value for name, value in _per_chunk(less).items()}
    values |= {f"{name}_many": value for name, value in _per_chunk(more).items()}
    if values["gateway_us_few"]:
        values["growth"] = values["gateway_us_many"] / values["gateway_us_few"]
    values["chunks_per_s_many"] = more.tokens / more.spent.wall_s
    failure = less.failure or more.failure
    return Outcome(values, failure, worst([less.spent.conditions, more.spent.conditions]))


CHUNK_CPU = Study(
    name="chunk-cpu",
    procedure=(
        f"{STREAMS} streams of {TOKENS_PER_S} tokens/s each, {WINDOW_S:.0f} s while all are open. "
        "Gateway: CPU seconds of every process of it but the one that stands for the upstream, "
        "raw, so what it does when idle is in it; idle CPU is measured right after, for "
        f"{IDLE_S:.0f} s. Path: with the upstream's. Divided by the tokens that arrived."
    ),
    pace=Pace(step_ms=1000 / TOKENS_PER_S),
    columns=[
        Column("gateway_us", "gateway us/chunk", compared=True),
        Column("path_us", "path us/chunk", compared=True),
        Column("chunks_per_s", "chunks/s", digits=0),
        Column("idle_gateway_percent", "idle gateway % of a core"),
        Column("idle_path_percent", "idle path % of a core"),
        Column("client_us", "client us/chunk"),
    ],
    run=chunk_cpu,
)

GROWTH = Study(
    name="growth",
    procedure=(
        f"{GROWTH_TOKENS_PER_S} tokens/s over {FEW} streams and over {MANY}, {WINDOW_S:.0f} s each "
        "while all are open; CPU a chunk as in `chunk-cpu`. Growth: the second over the first."
    ),
    pace=Pace(per_stream_ms=1000 / GROWTH_TOKENS_PER_S),
    columns=[
        Column("gateway_us_few", f"gateway us/chunk at {FEW}"),
        Column("gateway_us_many", f"gateway us/chunk at {MANY}"),
        Column("growth", "growth", digits=2, compared=True),
        Column("chunks_per_s_many", f"chunks/s at {MANY}", digits=0),
    ],
    run=growth,
    most_rounds=4,
)
