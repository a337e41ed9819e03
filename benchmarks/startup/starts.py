"""One start: its phases as the command tells them, and what each of its processes used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.running.machine import Conditions

_PHASE = re.compile(r"(?m)^ok  (?P<title>.+?)\s+(?P<seconds>\d+\.\d) s$")

_NAMES = (
    ("EngineCore", "vLLM's engine core"),
    ("ray::ServeReplica:ringfence:Engine", "engine's replica"),
    ("ray::ServeReplica:ringfence:Embedder", "embedder"),
    ("ray::ServeReplica:ringfence:Gateway", "gateway"),
    ("ray::ServeReplica:ringfence:Knowledge", "knowledge"),
    ("ray::ServeController", "Ray Serve's controller"),
    ("ray::ProxyActor", "Ray Serve's own proxy"),
    ("ray::HAProxyManager", "Ray Serve's HAProxy manager"),
    ("ray::", "Ray's agents and idle workers"),
    ("gcs_server", "Ray's GCS and raylet"),
    ("raylet", "Ray's GCS and raylet"),
    ("ringfence-haproxy", "HAProxy"),
    ("haproxy", "HAProxy"),
    ("valkey", "Valkey"),
    ("serving.deploying", "deploying"),
    ("serving.cli", "ringfence serve"),
)
"""What a process is, by a part of its title; the first that is in it counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """CPU seconds of a process until the first answer. `began_s` counts from the start."""

    name: str
    began_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """One start. `phases` are pairs of a title and seconds."""

    answered_s: float
    phases: Sequence[tuple[str, float]]
    parts: Sequence[Part]
    conditions: Conditions

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes until the first answer."""
        return sum(part.cpu_s for part in self.parts)


def phases(log: str) -> list[tuple[str, float]]:
    """The phases that `ringfence serve` has printed, in order."""
    return [(found["title"], float(found["seconds"])) for found in _PHASE.finditer(log)]


def part_name(title: str) -> str:
    """What a process is, by its command line."""
    return next((name for mark, name in _NAMES if mark in title), "other")
