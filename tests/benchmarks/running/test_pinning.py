import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.running.pinning import TooFewCores, pin, pinned_here, two_cores

# A process of two threads that starts a third when it is told to.
THREADS = """
import sys, threading, time
start = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
start(); print("two", flush=True); sys.stdin.readline(); start(); print("three", flush=True)
sys.stdin.readline()
"""


@contextmanager
def threads():
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "two\n"
        try:
            yield process
        finally:
            process.kill()


def affinities(pid):
    return [os.sched_getaffinity(int(t.name)) for t in Path(f"/proc/{pid}/task").iterdir()]


def test_every_thread_is_bound_and_later_ones_inherit_it():
    core = min(os.sched_getaffinity(0))
    with threads() as process:
        pin([process.pid], core)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "three\n"
        assert affinities(process.pid) == [{core}] * 3


def test_this_thread_is_bound_for_a_block():
    before = os.sched_getaffinity(0)
    with pinned_here(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_one_core_is_too_few():
    with pinned_here(min(os.sched_getaffinity(0))), pytest.raises(TooFewCores):
        two_cores()
