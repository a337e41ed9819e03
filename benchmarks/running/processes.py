"""Starts an arm's server, waits until it is ready, and stops it completely.

The procedure is the same for every arm. Processes are ended by pid, and only those of the server.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil

from benchmarks.running.arms import API_KEY, HOST, SHARED_ENVIRONMENT, Arm
from benchmarks.running.machine import process_tree

READY_DEADLINE_S = 300.0
STOP_DEADLINE_S = 30.0
FREEZE_DEADLINE_S = 10.0
# After a thaw, late timers of Ray fire at once, and vLLM's worker spins for a second.
THAW_S = 1.5
_POLL_S = 0.25
_PROBE_DEADLINE_S = 5.0
_FREEZE_POLL_S = 0.05
_GRACE_S = 2.0
# Every process of a server inherits this variable, so that orphans can be found.
_MARK = "RINGFENCE_BENCHMARK_SERVER"


class ServerError(RuntimeError):
    """A server did not become ready or did not stop."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running arm. `pid` is its first process, which leads its own session."""

    arm: Arm
    pid: int
    mark: str
    log: Path

    def pids(self) -> list[int]:
        """Return every process of the server, orphans included."""
        return [process.pid for process in _members(self.pid, self.mark)]

    def freeze(self) -> None:
        """Stop every process (SIGSTOP), so that the server uses memory but no CPU.

        Ray's idle processes use some per cent of a core, which the measured arm would lose. A
        cluster
        that was frozen for a minute was observed to continue normally.

        Raises:
            ServerError: A process still runs after `FREEZE_DEADLINE_S`.
        """
        give_up_s = monotonic() + FREEZE_DEADLINE_S
        while awake := _alive(_members(self.pid, self.mark), asleep=psutil.STATUS_STOPPED):
            if monotonic() > give_up_s:
                raise ServerError(f"{self.arm.name} does not freeze: {awake}")
            for process in awake:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            sleep(_FREEZE_POLL_S)

    def thaw(self) -> None:
        """Let every process continue (SIGCONT)."""
        _thaw(_members(self.pid, self.mark))

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Thaw the server during the block, which begins once late timers have fired."""
        self.thaw()
        try:
            sleep(THAW_S)
            yield
        finally:
            self.freeze()


@contextmanager
def running(
    arm: Arm,
    *,
    log_dir: Path,
    ready_deadline_s: float = READY_DEADLINE_S,
    stop_deadline_s: float = STOP_DEADLINE_S,
) -> Iterator[Server]:
    """Run `arm` during the block, which begins once `ready_path` returns 200.

    Readiness is the server's claim: Ray's ingress lists models before its engine can answer.

    Args:
        arm: The arm to start, in its own session (process group).
        log_dir: Directory for the server's output, `<name>.log`.
        ready_deadline_s: Seconds until it must be ready.
        stop_deadline_s: Seconds for the first process to end, and again for the others.

    Raises:
        ServerError: The server ends early, is not ready in time, or survives SIGKILL.
    """
    mark = uuid.uuid4().hex
    log = log_dir / f"{arm.name}.log"
    with log.open("wb") as output:
        # The command is fixed: no shell, no user input.
        process = subprocess.Popen(  # noqa: S603
            arm.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **SHARED_ENVIRONMENT, **arm.environment, _MARK: mark},
            start_new_session=True,
        )
    try:
        _wait_until_ready(arm, process, log, ready_deadline_s)
        yield Server(arm=arm, pid=process.pid, mark=mark, log=log)
    finally:
        _stop(process, mark, stop_deadline_s)


def _wait_until_ready(
    arm: Arm, process: subprocess.Popen[bytes], log: Path, deadline_s: float
) -> None:
    give_up_s = monotonic() + deadline_s
    while monotonic() < give_up_s:
        if process.poll() is not None:
            raise ServerError(f"{arm.name} ended with {process.returncode} during its start: {log}")
        if _answers_ok(arm):
            return
        sleep(_POLL_S)
    raise ServerError(f"{arm.name} was not ready within {deadline_s:.0f} s: {log}")


def _answers_ok(arm: Arm) -> bool:
    connection = http.client.HTTPConnection(HOST, arm.port, timeout=_PROBE_DEADLINE_S)
    try:
        connection.request("GET", arm.ready_path, headers={"authorization": f"Bearer {API_KEY}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes], mark: str, deadline_s: float) -> None:
    """Terminate the first process, then kill the remaining ones by pid."""
    known = _members(process.pid, mark)
    _thaw(known)
    process.terminate()
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(deadline_s)
    finally:  # This also runs if a signal interrupts the wait.
        _kill_rest(process.pid, mark, known, deadline_s)
        process.poll()


def _kill_rest(pid: int, mark: str, known: Iterable[psutil.Process], deadline_s: float) -> None:
    give_up_s = monotonic() + deadline_s
    while left := _alive({*known, *_members(pid, mark)}):
        if monotonic() > give_up_s:
            raise ServerError(f"processes survived SIGKILL: {left}")
        _, survivors = psutil.wait_procs(left, timeout=_GRACE_S)
        for survivor in survivors:
            # psutil compares start times, so a reused pid is never hit.
            with suppress(psutil.NoSuchProcess):
                survivor.kill()


def _members(pid: int, mark: str) -> list[psutil.Process]:
    """Return all processes of a server: members of the session, marked ones, and descendants.

    Each criterion alone misses some: Ray opens new sessions, setproctitle overwrites the
    environment
    (vLLM's engine), and an orphan has no parent in the tree.
    """
    roots = [
        process.pid
        for process in psutil.process_iter()
        if _session(process.pid) == pid or _environment(process).get(_MARK) == mark
    ]
    return process_tree(roots)


def _thaw(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _alive(processes: Iterable[psutil.Process], *, asleep: str = "") -> list[psutil.Process]:
    """Return the processes that are neither gone nor zombies nor in the status `asleep`."""
    alive = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, asleep}:
                alive.append(process)
    return alive


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
