"""A backend started by its public command, and how to stop it."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

MODEL = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
KEY = "sk-test-of-the-session"
START_DEADLINE_S = 420

EXACT_MODEL = "smollm2-float32"
"""The same weights in float32, where rounding does not decide between two tokens.

A test of what an answer says asks this one: in bfloat16 a processor of another make may answer in
French.
"""

SLOTS = 4
"""How many requests the bfloat16 engine runs at once; the tests of hang-ups fill them."""


def configuration(weights: Path) -> str:
    return f"""
models:
  - id: {MODEL}
    max_ongoing_requests: {SLOTS}
    max_queued_requests: 8
  - id: {EXACT_MODEL}
    source: {weights}
    licence: Apache-2.0
    dtype: float32
    context_tokens: 1024
    kv_cache_gib: 1
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


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
