"""Resources of this machine, read from copies of Linux's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.resources.machine import GIB, this_machine

Write = Callable[[str, object], None]

# As three kinds of processor show themselves; shortened.
AVX2 = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\nbugs\t\t: spectre_v1\n"
AVX512 = "flags\t\t: fpu avx2 avx512f avx512bw avx512vl avx512_vnni\n"
ZEN4 = "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n"
GRAVITON2 = "processor\t: 0\nFeatures\t: fp asimd aes crc32 atomics asimddp\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16 dgh\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def place(name: str, content: object) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(content))

    return place


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        (AVX2, False),
        (AVX512, False),
        (ZEN4, True),
        (SAPPHIRE_RAPIDS, True),
        (GRAVITON2, False),
        (GRAVITON3, True),
        ("", False),
        ("model name : avx512_bf16\nflags : avx2\n", False),
    ],
)
def test_cpu_has_bfloat16_where_its_flags_say_so(
    tmp_path: Path, write: Write, cpuinfo: str, has: bool
) -> None:
    write("proc/cpuinfo", cpuinfo)
    assert this_machine(tmp_path).bfloat16 is has


def test_cpu_that_linux_does_not_describe_has_no_bfloat16(tmp_path: Path) -> None:
    assert this_machine(tmp_path).bfloat16 is False


def test_flags_of_this_cpu_are_read_as_torch_reads_them() -> None:
    from torch import cpu

    flags = cpu.get_capabilities()
    if flags.get("architecture") not in ("x86_64", None):
        pytest.skip("torch names bfloat16 of other processors differently")
    assert this_machine().bfloat16 is (flags["avx512_bf16"] or flags.get("amx_bf16", False))


def test_memory_is_what_the_machine_has_free_where_nothing_limits_it(tmp_path: Path) -> None:
    memory = this_machine(tmp_path).memory
    assert memory.bound == "on this machine"
    assert memory.size > 0


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


@pytest.mark.parametrize(
    ("table", "place", "files"),
    [
        ("0::/", "sys/fs/cgroup", V2),
        ("0::/a/b", "sys/fs/cgroup/a/b", V2),
        ("0::/a/b", "sys/fs/cgroup/a", V2),
        ("5:cpu:/a\n4:memory:/a", "sys/fs/cgroup/memory/a", V1),
    ],
    ids=["container", "own group", "group above", "first version"],
)
def test_memory_is_what_a_control_group_leaves(
    tmp_path: Path, write: Write, table: str, place: str, files: tuple[str, str]
) -> None:
    write("proc/self/cgroup", table)
    for file, mebibytes in zip(files, (3, 1), strict=True):
        write(f"{place}/{file}", mebibytes * 2**20)
    assert this_machine(tmp_path).memory.size == 2 * 2**20


def test_control_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path, write: Write) -> None:
    write("proc/self/cgroup", "0::/")
    write("sys/fs/cgroup/memory.max", 5)
    write("sys/fs/cgroup/memory.current", 7)
    assert this_machine(tmp_path).memory.size == 0


def test_control_group_without_a_limit_bounds_nothing(tmp_path: Path, write: Write) -> None:
    write("proc/self/cgroup", "0::/")
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", 7)
    assert this_machine(tmp_path).memory.bound == "on this machine"


def test_memory_of_several_nodes_is_that_of_our_cores(tmp_path: Path, write: Write) -> None:
    core = min(os.sched_getaffinity(0))
    write("sys/devices/system/node/node0/meminfo", "Node 0 MemFree: 999999999999 kB\n")
    write(
        "sys/devices/system/node/node1/meminfo",
        "Node 1 MemTotal: 9000 kB\nNode 1 MemFree: 100 kB\nNode 1 Inactive(file): 20 kB\n",
    )
    write(f"sys/devices/system/node/node1/cpu{core}", "")
    memory = this_machine(tmp_path).memory
    assert (memory.size, memory.bound) == (120 * 1024, "on memory node1")


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ([], 0),
        (["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], 2),
        (["dev/dxg"], 1),
        (["dev/dri/card0"], 0),
    ],
)
def test_gpus_are_counted_by_their_devices(
    tmp_path: Path, write: Write, files: list[str], count: int
) -> None:
    for file in files:
        write(file, "")
    assert this_machine(tmp_path).gpus == count


def test_gpus_of_amd_are_the_nodes_that_compute(tmp_path: Path, write: Write) -> None:
    for number, units in enumerate([0, 304, 304]):
        place = f"sys/class/kfd/kfd/topology/nodes/{number}/properties"
        write(place, f"cpu_cores_count 0\nsimd_count {units}\n")
    assert this_machine(tmp_path).gpus == 2


def test_this_machine_has_some_memory() -> None:
    assert this_machine().memory.size > GIB // 16
