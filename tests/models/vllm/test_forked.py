"""The engine core leaves what it inherits of its replica."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from models.vllm import forked
from models.vllm.start import EngineStartFailed, explained_start

WAIT_S = 60

# From Python 3.12 on; the child of a replica uses nothing that another thread may hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def in_child(work: Callable[[Connection], None]) -> Any:
    """What `work` sends from a process that is forked as an engine core is."""
    context = forked.fork_context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(there,))
    process.start()
    there.close()
    try:
        assert here.poll(WAIT_S)
        return here.recv()
    finally:
        process.kill()
        process.join(WAIT_S)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_other_end_of_a_connection_notices_that_the_replica_is_gone() -> None:
    context = forked.fork_context()
    raylet, replica = socket.socketpair()
    here, there = context.Pipe(duplex=False)

    def work(told: Connection) -> None:
        told.send("running")
        signal.pause()

    process = context.Process(target=work, args=(there,))
    process.start()
    try:
        assert here.poll(WAIT_S)
        replica.close()
        raylet.settimeout(WAIT_S)
        assert raylet.recv(1) == b""
    finally:
        process.kill()
        process.join(WAIT_S)
        raylet.close()


def test_number_of_an_inherited_socket_is_not_given_to_another_file() -> None:
    inherited, other_end = socket.socketpair()
    number = inherited.fileno()

    def work(told: Connection) -> None:
        told.send(os.open(os.devnull, os.O_RDONLY) != number and os.fstat(number).st_rdev)

    assert in_child(work) == Path(os.devnull).stat().st_rdev
    inherited.close()
    other_end.close()


_TITLE = """
import psutil
from models.vllm import forked

def work(told):
    told.send(psutil.Process().cmdline()[0])

context = forked.fork_context()
here, there = context.Pipe(duplex=False)
process = context.Process(target=work, args=(there,))
process.start()
print(here.recv())
process.join()
"""


def test_core_is_not_taken_for_its_replica() -> None:
    # In a process of its own: tests that run in parallel have changed their titles already.
    told = subprocess.run(
        [sys.executable, "-c", _TITLE],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=5 * WAIT_S,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == forked.TITLE


def test_core_writes_to_standard_output_whatever_its_replica_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # As Ray Serve does with a log of its own.

    def work(told: Connection) -> None:
        told.send(sys.stdout is sys.__stdout__)

    assert in_child(work)


def test_reason_of_a_failed_start_reaches_the_replica() -> None:
    def work(told: Connection) -> None:
        error = ValueError("There is too little memory.")
        logging.getLogger("vllm.core").error("EngineCore failed to start.", exc_info=error)
        told.send("failed")

    def start() -> None:
        with explained_start():
            in_child(work)
            raise RuntimeError("See root cause above.")

    with pytest.raises(EngineStartFailed, match="too little memory"):
        start()


def test_pipes_are_kept() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"kept")

    def work(told: Connection) -> None:
        told.send(os.read(reading, 4))

    assert in_child(work) == b"kept"
    os.close(reading)
    os.close(writing)


def test_core_ends_when_it_is_told_to_before_it_has_a_handler() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)

    def work(told: Connection) -> None:
        told.send((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    try:
        assert in_child(work) == (signal.SIG_DFL, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_core_computes_in_the_threads_that_its_environment_says() -> None:
    import torch

    def work(told: Connection) -> None:
        told.send(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert in_child(work) == 1
    finally:
        torch.set_num_threads(before)
