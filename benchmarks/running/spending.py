"""What a gateway, the engine behind it and the client spend while something runs.

Reads clocks; starts nothing and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import psutil

from benchmarks.running.machine import (
    Conditions,
    CpuClock,
    Usage,
    conditions,
    cpu_clock,
    process_tree,
    processes_cpu_s,
)
from benchmarks.running.pinning import Cores
from benchmarks.running.processes import Server


@dataclass(frozen=True, slots=True)
class Watched:
    """The processes of one path. A process that starts later is not among them.

    Attributes:
        gateway: All that stands between client and upstream; none for the upstream itself.
        upstream: The mock, or the one process of a server that stands for it.
        cores: Where they were bound.
    """

    gateway: Sequence[psutil.Process]
    upstream: Sequence[psutil.Process]
    cores: Cores


@dataclass(frozen=True, slots=True)
class Reading:
    """All clocks at one moment."""

    at_s: float
    usage: Usage
    client_core: CpuClock
    gateway_core: CpuClock


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent between two readings, in CPU seconds, and what else ran.

    Attributes:
        gateway_s: By the gateway's processes, what they do when idle included.
        upstream_s: By what stands for the upstream.
        client_s: By the client.
        wall_s: Between the readings.
        client_core_share: Of the core that client and upstream share, how much was busy.
        gateway_core_share: Same of the gateway's core.
        conditions: What else ran.
    """

    gateway_s: float
    upstream_s: float
    client_s: float
    wall_s: float
    client_core_share: float
    gateway_core_share: float
    conditions: Conditions


def watched(server: Server, upstream: Server | None, cores: Cores) -> Watched:
    """The processes behind `server` as they are now, split at its upstream.

    Args:
        server: What answers the client.
        upstream: The mock behind it. None if the server is the mock, or if a process of the
            server's own stands for the upstream, which its arm then names.
        cores: Where they are bound.

    Raises:
        LookupError: If the arm names a process that is not there.
    """
    processes = process_tree(server.pids())
    if upstream is not None:
        return Watched(processes, process_tree(upstream.pids()), cores)
    title = server.arm.engine_title
    if not title:
        return Watched((), processes, cores)
    engine = [process for process in processes if title in _title(process)]
    if not engine:
        raise LookupError(f"{server.arm.name} has no process titled {title!r}; log: {server.log}")
    return Watched([process for process in processes if process not in engine], engine, cores)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def read(path: Watched) -> Reading:
    """Read all clocks; about a millisecond."""
    trees_s = (processes_cpu_s(path.gateway), processes_cpu_s(path.upstream))
    return Reading(
        at_s=perf_counter(),
        usage=Usage(machine=cpu_clock(), harness_s=process_time(), trees_s=trees_s),
        client_core=cpu_clock(path.cores.client),
        gateway_core=cpu_clock(path.cores.gateway),
    )


def spent(before: Reading, after: Reading) -> Spent:
    """What was spent from `before` to `after`."""
    gateway_s, upstream_s = after.usage.trees_since(before.usage)
    return Spent(
        gateway_s=gateway_s,
        upstream_s=upstream_s,
        client_s=after.usage.harness_s - before.usage.harness_s,
        wall_s=after.at_s - before.at_s,
        client_core_share=_busy(after.client_core.since(before.client_core)),
        gateway_core_share=_busy(after.gateway_core.since(before.gateway_core)),
        conditions=conditions(before.usage, after.usage, own_s=gateway_s + upstream_s),
    )


def _busy(clock: CpuClock) -> float:
    return clock.busy_s / clock.total_s if clock.total_s else 0.0
