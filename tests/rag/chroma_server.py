"""Fixture: Chroma's Rust server on a free port of this machine, one per test run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.running.ports import free_port

__all__ = ["chroma_url", "running"]

BINARY = Path(sys.executable).parent / "chroma"
START_S = 30.0


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run a server during the block; returns its URL."""
    if not BINARY.exists():
        pytest.skip("the `chroma` command is not installed")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(BINARY),
        "run",
        "--path",
        str(directory),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/api/v2/heartbeat", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise RuntimeError("the Chroma server did not answer")
