"""Study of a gateway's memory growth over thousands of requests."""

from __future__ import annotations

from itertools import islice
from time import sleep

import uvloop

from benchmarks.client.load_client import closed_loop
from benchmarks.client.records import RequestRecord, StreamReader, WholeReader
from benchmarks.gateways.contenders import Contender
from benchmarks.gateways.studies.study import REQUEST_DEADLINE_S, Column, Outcome, Study
from benchmarks.running.machine import processes_pss_bytes
from benchmarks.running.pinning import pinned_here
from benchmarks.running.spending import Watched, read, spent
from benchmarks.servers.steps import Pace

WARM_UP_REQUESTS = 1_000
REQUESTS = 20_000
STREAMS = 16
_TOKENS = 8
_QUIET_S = 3.0
_MIB = 2**20


def growth(contender: Contender, *, requests: int = REQUESTS) -> Outcome:
    """Measure the proportional set size before and after `requests`, half of them streamed."""
    with contender.awake() as path, pinned_here(contender.cores.client):
        failure = _serve(contender, WARM_UP_REQUESTS)
        before, first = read(path), _pss_mib(path)
        failure = failure or _serve(contender, requests)
        last, used = _pss_mib(path), spent(before, read(path))
    values = {
        "gateway_mib": first[0],
        "gateway_growth_mib": last[0] - first[0],
        "path_growth_mib": sum(last) - sum(first),
    }
    return Outcome(values, failure, used.conditions)


def _serve(contender: Contender, requests: int) -> str | None:
    """Send requests, and return the first failure."""
    return _half(contender, requests // 2, stream=False) or _half(
        contender, requests // 2, stream=True
    )


def _half(contender: Contender, requests: int, *, stream: bool) -> str | None:
    chats = contender.chats(max_tokens=_TOKENS, stream=stream)
    records: tuple[RequestRecord, ...] = uvloop.run(
        closed_loop(
            contender.target,
            islice(chats, requests),
            streams=STREAMS,
            deadline_s=REQUEST_DEADLINE_S,
            reader=StreamReader if stream else WholeReader,
        )
    )
    return next((record.error for record in records if record.error), None)


def _pss_mib(path: Watched) -> tuple[float, float]:
    """Return the memory of the gateway and of the upstream, once both are idle."""
    sleep(_QUIET_S)
    return processes_pss_bytes(path.gateway) / _MIB, processes_pss_bytes(path.upstream) / _MIB


MEMORY = Study(
    name="memory",
    procedure=(
        f"Proportional set size of the gateway's processes after {WARM_UP_REQUESTS:,} requests, "
        f"and what {REQUESTS:,} more add, half of them streamed, {STREAMS} at a time, {_TOKENS} "
        "tokens each. Path: with what stands for the upstream. Every row begins where the one "
        "before it on the same server ended."
    ),
    pace=Pace(),
    columns=[
        Column("gateway_mib", "gateway MiB", digits=0),
        Column("gateway_growth_mib", "growth of the gateway MiB"),
        Column("path_growth_mib", "growth of the path MiB"),
    ],
    run=growth,
    most_rounds=1,
)
