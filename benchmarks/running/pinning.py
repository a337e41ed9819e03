"""Pins process trees to cores, so that a gateway's work can be separated from the rest.

Linux only. Knows nothing of servers or measurements.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running.machine import process_tree


class TooFewCores(RuntimeError):
    """The machine does not have the two cores that a measurement needs."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Two cores: one for the measured gateway, one for the client and the upstream."""

    client: int
    gateway: int


def two_cores() -> Cores:
    """Return the first two cores that this process may use.

    Raises:
        TooFewCores: There is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise TooFewCores("two cores are needed: a gateway is measured on its own core")
    return Cores(client=usable[0], gateway=usable[1])


def pin(roots: Iterable[int], core: int) -> None:
    """Pin every thread of the trees at `roots` to `core`. Later threads inherit it."""
    for process in process_tree(roots):
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), {core})


@contextmanager
def pinned_here(core: int) -> Iterator[None]:
    """Pin this thread to `core` during the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
