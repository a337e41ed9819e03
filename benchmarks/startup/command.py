"""`python -m benchmarks.startup`: how long a start takes, and what it is made of.

`ringfence serve` is started by its public command with the default configuration, in
`RINGFENCE_HOME`, and asked for one token. The first start may prepare weights and is not counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, time

import psutil

from benchmarks.running.arms import API_KEY, HOST, MODEL, Arm
from benchmarks.running.command import REPOSITORY, Finished, carry_out, progress
from benchmarks.running.machine import conditions, describe, usage
from benchmarks.running.measure import MeasurementError
from benchmarks.running.parts import RINGFENCE
from benchmarks.running.ports import free_port
from benchmarks.running.processes import running
from benchmarks.startup.report import StartupRun, markdown, write_json
from benchmarks.startup.starts import Part, Start, part_name, phases

ANSWER_DEADLINE_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 if a server does not start, answer or stop."""
    options = _options(argv)
    return carry_out("benchmarks.startup", lambda: _finished(options), log=options.log)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts that count (default: 5)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    return parser.parse_args(argv)


def _finished(options: argparse.Namespace) -> Finished:
    began, began_s, machine = datetime.now(UTC), perf_counter(), describe(REPOSITORY)
    directory = Path(tempfile.mkdtemp(prefix="ringfence-startup-"))
    progress(f"starting {options.rounds + 1} times; logs: {directory}")
    starts = []
    for number in range(options.rounds + 1):
        start = started(_arm(number), directory)
        progress(f"start {number}: {start.answered_s:.1f} s, {start.cpu_s:.1f} CPU-s")
        if number:
            starts.append(start)
    run = StartupRun(
        began=began,
        took_s=perf_counter() - began_s,
        command=("python", "-m", "benchmarks.startup", *sys.argv[1:]),
        machine=machine,
        starts=starts,
    )
    return Finished(began=began, tables=markdown(run), path=write_json(run, options.out))


def _arm(number: int) -> Arm:
    port = free_port()
    return Arm(
        name=f"{RINGFENCE}-{number}",
        command=(sys.executable, "-m", "serving.cli", "serve", "--port", str(port)),
        port=port,
        ready_path="/ready",
        environment={"RINGFENCE_API_KEY": API_KEY},
    )


def started(arm: Arm, directory: Path) -> Start:
    """Start a server, ask it once, and stop it.

    Raises:
        ServerError: It does not start or does not go away.
        MeasurementError: It does not answer.
    """
    before, began, began_s = usage([]), time(), perf_counter()
    with running(arm, log_dir=directory) as server:
        _ask(arm)
        answered_s, after = perf_counter() - began_s, usage([])
        parts = [
            part for process in map(_process, server.pids()) for part in _parts(process, began)
        ]
        text = server.log.read_text("utf-8", errors="replace")
    cpu_s = sum(part.cpu_s for part in parts)
    return Start(
        answered_s=answered_s,
        phases=phases(text),
        parts=parts,
        conditions=conditions(before, after, own_s=cpu_s),
    )


def _ask(arm: Arm) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
    }
    connection = http.client.HTTPConnection(HOST, arm.port, timeout=ANSWER_DEADLINE_S)
    headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"{arm.name} did not answer: {type(error).__name__}") from error
    finally:
        connection.close()
    if status != 200:
        raise MeasurementError(f"{arm.name} answered {status}")


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _parts(process: psutil.Process | None, began: float) -> list[Part]:
    """A process, and those that it started and that have ended."""
    if process is None:
        return []
    try:
        title, times = " ".join(process.cmdline()), process.cpu_times()
        at_s = process.create_time() - began
    except psutil.NoSuchProcess:
        return []
    name = part_name(title)
    found = [Part(name, at_s, times.user + times.system)]
    if ended_s := times.children_user + times.children_system:
        found.append(Part(f"{name}: ended children", at_s, ended_s))
    return found
