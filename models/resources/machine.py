"""Resources of this machine: memory, GPUs, and the CPU's floating-point types.

Memory is counted as vLLM does before it allocates: on one memory node, and with the file cache of
a control group counted as used.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1024**3

_ROOT = Path("/")

_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux's names of the CPU features on x86 (AVX512-BF16, AMX-BF16) and on Arm."""


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Free memory in bytes, and a phrase that names the limit."""

    size: int
    bound: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources for models.

    Attributes:
        memory: Memory that is free now.
        bfloat16: Whether the CPU computes in bfloat16; otherwise it emulates it.
        gpus: Number of GPUs.
    """

    memory: FreeMemory
    bfloat16: bool
    gpus: int


def this_machine(root: Path = _ROOT) -> Machine:
    """Inspect this machine.

    Args:
        root: directory of `dev`, `proc` and `sys`, which tests replace.
    """
    return Machine(_free_memory(root), _has_bfloat16(root / "proc/cpuinfo"), _gpus(root))


def _has_bfloat16(cpuinfo: Path) -> bool:
    flags = re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", _text(cpuinfo))
    return flags is not None and not _BFLOAT16_FLAGS.isdisjoint(flags[1].split())


def _gpus(root: Path) -> int:
    """Count GPUs of NVIDIA and AMD; 1 if WSL shows all of them as one device."""
    nvidia = [path for path in (root / "dev").glob("nvidia*") if path.name[6:].isdigit()]
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    amd = [node for node in nodes if re.search(r"(?m)^simd_count [1-9]", _text(node))]
    return len(nvidia) + len(amd) or int((root / "dev/dxg").exists())


def _free_memory(root: Path) -> FreeMemory:
    """Return the smallest of the limits of the machine, our memory node and each control group."""
    machine = FreeMemory(psutil.virtual_memory().available, "on this machine")
    return min([machine, *_node(root), *_control_groups(root)], key=lambda free: free.size)


def _node(root: Path) -> list[FreeMemory]:
    """Return the free memory of our first core's node, which vLLM binds to; empty with one node."""
    nodes = list((root / "sys/devices/system/node").glob("node[0-9]*"))
    core = f"cpu{min(os.sched_getaffinity(0))}"
    found = [node for node in nodes if (node / core).exists()]
    if len(nodes) < 2 or not found:
        return []
    kib = dict(re.findall(r"(\S+):\s+(\d+) kB", _text(found[0] / "meminfo")))
    parts = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    free = sum(int(kib.get(part, 0)) for part in parts) * 1024
    return [FreeMemory(free, f"on memory {found[0].name}")]


def _control_groups(root: Path) -> list[FreeMemory]:
    """Return the free memory within the limits of our control group and its ancestors."""
    found = []
    for row in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = row.split(":", 2)
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            group = base.joinpath(*parts[:depth])
            limit, used = (_text(group / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                bound = f"in a control group of {int(limit) / GIB:.1f} GiB"
                found.append(FreeMemory(max(0, int(limit) - int(used)), bound))
    return found


def _text(file: Path) -> str:
    """Read a file; empty if it cannot be read, for example outside Linux."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
