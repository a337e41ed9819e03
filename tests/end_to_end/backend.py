"""Starts a backend by its public command, and stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.running.ports import free_port

MODEL = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
KEY = "sk-test-of-the-session"
START_DEADLINE_S = 420
RINGFENCE = (sys.executable, "-m", "serving.cli")

EXACT_MODEL = "smollm2-float32"
"""The same weights in float32, where rounding does not decide between two tokens.

A test of what an answer says asks this one: in bfloat16 a processor of another make may answer in
French.
"""

SLOTS = 4
"""Concurrent requests of the bfloat16 engine, which the disconnect tests fill."""

QUEUED = 8
"""How many requests wait for a slot of that engine; more are refused."""

CONTEXT_TOKENS = 2048
"""The context of that engine, in tokens."""


def configuration(weights: Path) -> str:
    return f"""
models:
  - id: {MODEL}
    dtype: bfloat16
    max_ongoing_requests: {SLOTS}
    max_queued_requests: {QUEUED}
  - id: {EXACT_MODEL}
    source: {weights}
    licence: Apache-2.0
    dtype: float32
    context_tokens: 1024
    kv_cache_gib: 1
    tool_call_parser: hermes
  - {EMBEDDER}
  - simulated
server:
  body_timeout_s: 2
"""


@dataclass(frozen=True)
class Backend:
    url: str
    key: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


@contextmanager
def served(
    home: Path,
    configuration: str,
    *,
    folder: Path | None = None,
    own_session: bool = False,
    ready: Callable[[subprocess.Popen[bytes], str, Path], None] | None = None,
    **variables: str,
) -> Iterator[Backend]:
    """A backend with a configuration of its own, started by the public command.

    Args:
        home: its state; the first key is there unless `RINGFENCE_API_KEY` is given.
        folder: where its configuration and its log are written; `home` if None.
        own_session: whether it leads a process group of its own, as one on a terminal does.
        ready: waits for it; `wait_until_ready` if None.
        variables: more of its environment.
    """
    folder = folder or home
    file, log, port = folder / "ringfence.yaml", folder / "serve.log", free_port()
    file.write_text(configuration)
    variables = {"RINGFENCE_CONFIG": str(file)} | variables
    process = start(home, port, log, own_session=own_session, **variables)
    url = f"http://127.0.0.1:{port}"
    try:
        (ready or wait_until_ready)(process, url, log)
        key = variables.get("RINGFENCE_API_KEY") or (home / "first-key").read_text().strip()
        yield Backend(url, key, home, process, log)
    finally:
        if process.poll() is None:
            stop(process)


def start(
    home: Path, port: int, log: Path, *, own_session: bool = False, **variables: str
) -> subprocess.Popen[bytes]:
    """`ringfence serve` with its state in `home`; what it says is added to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*RINGFENCE, "serve", "--port", str(port)],
            env=environment(home) | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=own_session,
        )


def environment(home: Path) -> dict[str, str]:
    """Return the environment of our commands for the backend that `served` keeps in that home."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("RINGFENCE_")}
    return own | {"RINGFENCE_HOME": str(home), "RINGFENCE_CONFIG": str(home / "ringfence.yaml")}


def processes_of(server: subprocess.Popen[bytes], title: str) -> list[psutil.Process]:
    """Return the processes of a server with such a title, ignoring other servers."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the backend ended at once:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/ready", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    stop(process)
    pytest.fail(f"the backend was not ready in time:\n{log.read_text()}")
