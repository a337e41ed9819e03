"""Which core runs what: every thread of a process tree on one core, so that cores can be compared.

Linux only. Knows nothing of servers or of what is measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running.machine import process_tree


class TooFewCores(RuntimeError):
    """There are not two cores to tell a gateway's work from everything else's."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Two cores: what is measured has one, what measures and what stands for a model the other."""

    client: int
    gateway: int


def two_cores() -> Cores:
    """The first two cores that this process may use.

    Raises:
        TooFewCores: If there is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise TooFewCores("a gateway is measured on a core of its own: two cores are needed")
    return Cores(client=usable[0], gateway=usable[1])


def pin(roots: Iterable[int], core: int) -> None:
    """Bind every thread of the trees at `roots` to `core`. Threads they start later inherit it."""
    for process in process_tree(roots):
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), {core})


@contextmanager
def pinned_here(core: int) -> Iterator[None]:
    """This thread on `core` for the length of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
