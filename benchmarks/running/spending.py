"""CPU time of a gateway, of the engine behind it, and of the client.

Only reads clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import psutil

from benchmarks.running.machine import (
    Conditions,
    CpuClock,
    CpuUsage,
    conditions,
    cpu_clock,
    process_tree,
    processes_cpu_s,
)
from benchmarks.running.pinning import Cores
from benchmarks.running.processes import Server


@dataclass(frozen=True, slots=True)
class Watched:
    """The processes of one path. Processes that start later are not included.

    Attributes:
        gateway: Processes between client and upstream; empty if the server is the upstream.
        upstream: The mock, or the server's process that acts as the upstream.
        cores: The cores that they are pinned to.
    """

    gateway: Sequence[psutil.Process]
    upstream: Sequence[psutil.Process]
    cores: Cores


@dataclass(frozen=True, slots=True)
class Reading:
    """Readings of all clocks at one moment."""

    at_s: float
    usage: CpuUsage
    client_core: CpuClock
    gateway_core: CpuClock


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds between two readings, and other load.

    Attributes:
        gateway_s: CPU time of the gateway's processes, including their idle work.
        upstream_s: CPU time of the upstream.
        client_s: CPU time of the client.
        wall_s: Seconds between the readings.
        client_core_share: Busy share of the core that client and upstream share.
        gateway_core_share: Busy share of the gateway's core.
        conditions: Other load on the machine.
    """

    gateway_s: float
    upstream_s: float
    client_s: float
    wall_s: float
    client_core_share: float
    gateway_core_share: float
    conditions: Conditions


def watched(server: Server, upstream: Server | None, cores: Cores) -> Watched:
    """Return the current processes behind `server`, split into gateway and upstream.

    Args:
        server: The server that the client connects to.
        upstream: The mock behind it. None if the server is the mock, or if one of the server's
            processes is the upstream, which its arm then names.
        cores: The cores that they are pinned to.

    Raises:
        LookupError: The process that the arm names does not exist.
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
    """Read all clocks, which takes about a millisecond."""
    trees_s = (processes_cpu_s(path.gateway), processes_cpu_s(path.upstream))
    return Reading(
        at_s=perf_counter(),
        usage=CpuUsage(machine=cpu_clock(), harness_s=process_time(), trees_s=trees_s),
        client_core=cpu_clock(path.cores.client),
        gateway_core=cpu_clock(path.cores.gateway),
    )


def spent(before: Reading, after: Reading) -> Spent:
    """Return the difference between two readings."""
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
