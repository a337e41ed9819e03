"""Ringfence's detection in a process on one core: started, queried and stopped.

Does not know what the texts are for.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

from benchmarks.running.command import REPOSITORY
from benchmarks.running.machine import tree_pss_bytes
from benchmarks.running.pinning import pin
from benchmarks.running.processes import ServerError

READY_DEADLINE_S = 120
ANSWER_DEADLINE_S = 120
STOP_DEADLINE_S = 10

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Parts = Literal["all", "patterns"]


@dataclass(frozen=True, slots=True)
class DetectedSpans:
    """The spans of each text, and the seconds that detection took inside the process."""

    found: list[list[tuple[int, int]]]
    s: float


class Detection:
    """A process that detects personal data.

    Args:
        process: A process with open pipes at both ends.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None  # noqa: S101  Both are pipes: see `detecting`.
        assert process.stdout is not None  # noqa: S101
        self._pid = process.pid
        self._input: IO[str] = process.stdin
        self._output: IO[str] = process.stdout

    def ask(self, texts: Sequence[str], *, parts: Parts = "all") -> DetectedSpans:
        """Detect personal data in `texts`.

        Raises:
            ServerError: The process ends or does not answer in time.
        """
        self._input.write(json.dumps({"parts": parts, "texts": list(texts)}) + "\n")
        self._input.flush()
        answer = json.loads(self.line(ANSWER_DEADLINE_S))
        found = [[(start, end) for start, end in spans] for spans in answer["found"]]
        return DetectedSpans(found=found, s=answer["s"])

    def line(self, deadline_s: float) -> str:
        """Read the next line that the process writes.

        Raises:
            ServerError: No line comes in time.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            if not selector.select(deadline_s):
                raise ServerError(f"detection was silent for {deadline_s:g} s")
        line = self._output.readline()
        if not line:
            raise ServerError("detection ended")
        return line

    @property
    def pss_bytes(self) -> int:
        """Current proportional set size of the process."""
        return tree_pss_bytes([self._pid])


@contextmanager
def detecting(*, core: int) -> Iterator[Detection]:
    """Run detection on `core` with one thread during the block.

    Raises:
        ServerError: The process is not ready in time.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers.detector"],
        cwd=REPOSITORY,
        env=os.environ | ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pin([process.pid], core)
        detection = Detection(process)
        detection.line(READY_DEADLINE_S)
        pin([process.pid], core)
        yield detection
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_DEADLINE_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
