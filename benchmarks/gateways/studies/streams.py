"""Study of how many paced streams a gateway carries on one core before tokens come irregularly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite
from operator import itemgetter
from typing import Any

import uvloop

from benchmarks.gateways.contenders import Contender
from benchmarks.gateways.studies.steady import OPEN_DEADLINE_S, Steady, steady
from benchmarks.gateways.studies.study import Column, Outcome, Study
from benchmarks.reporting.statistics import percentile
from benchmarks.running.machine import worst
from benchmarks.running.pinning import pinned_here
from benchmarks.running.spending import Watched
from benchmarks.servers.steps import Pace

TOKENS_PER_S = 50
NOMINAL_GAP_S = 1 / TOKENS_PER_S
MOST_ADDED_S = 0.010
# Limits for the client's core and timer. Beyond them the delay may be the client's.
MOST_CLIENT_CORE_SHARE = 0.9
MOST_LAG_S = 0.005
WINDOW_S = 4.0
RAMP = (25, 50, 75, 100, 125, 150, 200, 300, 400, 500, 600, 800, 1000)
_TRIES = 2
_TOKENS = ceil(TOKENS_PER_S * (OPEN_DEADLINE_S + 2 * WINDOW_S))


def most_streams(
    contender: Contender, *, ramp: Sequence[int] = RAMP, window_s: float = WINDOW_S
) -> Outcome:
    """Increase the number of streams along `ramp` until every try of a step fails."""
    steps: list[dict[str, Any]] = []
    most = 0
    with contender.awake() as path, pinned_here(contender.cores.client):
        for streams in ramp:
            tries = list(_tries(contender, path, streams, window_s))
            steps += tries
            if tries[-1]["verdict"] != "held":
                break
            most = streams
    best = min(tries, key=itemgetter("added_p99_ms"))
    values = {
        "streams": float(most),
        "tried": float(streams),
        "added_p99_ms": best["added_p99_ms"],
        "gateway_core": best["gateway_core_share"] * 100,
        "client_core": best["client_core_share"] * 100,
        "client_limited": float(all(step["verdict"] == "client" for step in tries)),
    }
    finite = {name: value for name, value in values.items() if isfinite(value)}
    return Outcome(finite, None, worst([step["conditions"] for step in steps]), steps)


def _tries(
    contender: Contender, path: Watched, streams: int, window_s: float
) -> Iterator[dict[str, Any]]:
    """Run up to `_TRIES` windows, until one holds."""
    for _ in range(_TRIES):
        step = _step(streams, _window(contender, path, streams, window_s))
        yield step
        if step["verdict"] == "held":
            return


def _window(contender: Contender, path: Watched, streams: int, window_s: float) -> Steady:
    watching = steady(contender, path, streams=streams, window_s=window_s, tokens=_TOKENS)
    return uvloop.run(watching)


def _step(streams: int, seen: Steady) -> dict[str, Any]:
    added_s = percentile(seen.gaps_s, 99) - NOMINAL_GAP_S if seen.gaps_s else float("inf")
    lag_s = percentile(seen.lags_s, 99) if seen.lags_s else float("inf")
    return {
        "streams": streams,
        "verdict": verdict(added_s, lag_s, seen),
        "failure": seen.failure,
        "added_p99_ms": added_s * 1000,
        "gap_p50_ms": percentile(seen.gaps_s, 50) * 1000 if seen.gaps_s else None,
        "tokens_per_s": seen.tokens / seen.spent.wall_s,
        "client_lag_p99_ms": lag_s * 1000,
        "client_us_per_chunk": seen.spent.client_s / max(1, seen.tokens) * 1e6,
        "client_core_share": seen.spent.client_core_share,
        "gateway_core_share": seen.spent.gateway_core_share,
        "conditions": seen.spent.conditions,
    }


def verdict(added_s: float, lag_s: float, seen: Steady) -> str:
    """Return `held`, `failed`, `late`, or `client` if the client may have caused the delay."""
    if added_s <= MOST_ADDED_S and seen.failure is None:
        return "held"
    if seen.spent.client_core_share > MOST_CLIENT_CORE_SHARE or lag_s > MOST_LAG_S:
        return "client"
    return "failed" if seen.failure else "late"


STREAMS = Study(
    name="streams",
    procedure=(
        f"The most streams of {TOKENS_PER_S} tokens/s each, of {', '.join(map(str, RAMP))}, whose "
        f"p99 gap is at most {MOST_ADDED_S * 1000:.0f} ms above the nominal "
        f"{NOMINAL_GAP_S * 1000:.0f} ms, {WINDOW_S:.0f} s while all are open, the gateway on one "
        "core. All tokens of a step come out of the upstream at once. A step that fails is tried "
        "again. "
        "Where every try fails while the core of client, mock and simulated engine is over "
        f"{MOST_CLIENT_CORE_SHARE:.0%} busy or the client's timer over "
        f"{MOST_LAG_S * 1000:.0f} ms late (p99), that core may be the limit: "
        "then the figure is a lower bound and the column of that name is 1."
    ),
    pace=Pace(step_ms=1000 / TOKENS_PER_S),
    columns=[
        Column("streams", "streams", digits=0, compared=True),
        Column("tried", "last tried", digits=0),
        Column("client_limited", "other core the limit", digits=1),
        Column("added_p99_ms", "added p99 ms there"),
        Column("gateway_core", "gateway's core % there", digits=0),
        Column("client_core", "other core % there", digits=0),
    ],
    run=most_streams,
    most_rounds=2,
)
