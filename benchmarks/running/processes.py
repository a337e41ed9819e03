"""Start an arm's server, wait until it is ready, and stop it so that nothing of it is left.

One procedure for every arm. Processes are ended by pid only, and only those of the server.
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
# Late timers of a Ray cluster fire at once after a thaw, and vLLM's worker spins for a second.
THAW_S = 1.5
_POLL_S = 0.25
_PROBE_DEADLINE_S = 5.0
_FREEZE_POLL_S = 0.05
_GRACE_S = 2.0
# Inherited by every process of one server, so that those whose parent died are found as well.
_MARK = "RINGFENCE_BENCHMARK_SERVER"


class ServerError(RuntimeError):
    """A server did not get ready or did not go away."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running arm: `pid` is its first process, which leads a session of its own."""

    arm: Arm
    pid: int
    mark: str
    log: Path

    def pids(self) -> list[int]:
        """Every process of the server, orphans too: roots for `machine.process_tree`."""
        return [process.pid for process in _members(self.pid, self.mark)]

    def freeze(self) -> None:
        """Stop every process where it stands (SIGSTOP): it then takes memory and no CPU.

        Ray's idle processes take some per cent of a core, which the arm under measurement would
        lose. A cluster frozen whole for a minute was seen to go on as if nothing had been.

        Raises:
            ServerError: If a process still runs after `FREEZE_DEADLINE_S`.
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
        """Let every process go on (SIGCONT)."""
        _thaw(_members(self.pid, self.mark))

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Thaw for the length of the block, which begins once late timers have fired."""
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
    """Run `arm` for the length of the block, from its first 200 on `ready_path` to gone.

    Ready is the server's own claim: Ray's ingress lists models before its engine can answer.

    Args:
        arm: What to start, as a session (process group) of its own.
        log_dir: Takes the server's output as `<name>.log`.
        ready_deadline_s: From its start.
        stop_deadline_s: For its first process to end by itself, and for the rest to be gone.

    Raises:
        ServerError: If it ends or is not ready in time, or if a process of it survives SIGKILL.
    """
    mark = uuid.uuid4().hex
    log = log_dir / f"{arm.name}.log"
    with log.open("wb") as output:
        # The command is one of ours: no shell, nothing of a user in it.
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
            raise ServerError(f"{arm.name} ended with {process.returncode} at its start: {log}")
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
    """Ask the first process to end, then kill by pid whatever is left of the server."""
    known = _members(process.pid, mark)
    _thaw(known)
    process.terminate()
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(deadline_s)
    finally:  # Also where a signal to us cuts the waiting short.
        _kill_rest(process.pid, mark, known, deadline_s)
        process.poll()


def _kill_rest(pid: int, mark: str, known: Iterable[psutil.Process], deadline_s: float) -> None:
    give_up_s = monotonic() + deadline_s
    while left := _alive({*known, *_members(pid, mark)}):
        if monotonic() > give_up_s:
            raise ServerError(f"processes survived SIGKILL: {left}")
        _, survivors = psutil.wait_procs(left, timeout=_GRACE_S)
        for survivor in survivors:
            # psutil compares start times first, so a reused pid is never hit.
            with suppress(psutil.NoSuchProcess):
                survivor.kill()


def _members(pid: int, mark: str) -> list[psutil.Process]:
    """All processes of the server that `pid` began: session, mark and descendants together.

    Each alone misses some: Ray opens new sessions, a title set by setproctitle overwrites the
    environment (vLLM's engine), and an orphan is nobody's descendant.
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
    """Those that run: neither gone nor zombies nor of the status `asleep`."""
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
