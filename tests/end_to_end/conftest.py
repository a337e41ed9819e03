"""The whole backend on the real engine, started once for the session by its public command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.running.ports import free_port
from models.catalog import builtin
from models.prepare import prepare
from tests.end_to_end.backend import (
    KEY,
    MODEL,
    Backend,
    configuration,
    stop,
    wait_until_ready,
)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State directory; RINGFENCE_TEST_HOME keeps prepared weights between runs."""
    kept = os.environ.get("RINGFENCE_TEST_HOME")
    return Path(kept) if kept else tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def weights(home: Path) -> Path:
    return prepare(builtin()[MODEL], home)


@pytest.fixture(scope="session")
def backend(
    home: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    work = tmp_path_factory.mktemp("backend")
    (work / "ringfence.yaml").write_text(configuration(weights))
    url = f"http://127.0.0.1:{free_port()}"
    log = work / "serve.log"
    environment = os.environ | {
        "RINGFENCE_HOME": str(home),
        "RINGFENCE_API_KEY": KEY,
        "RINGFENCE_CONFIG": str(work / "ringfence.yaml"),
        "RINGFENCE_PORT": url.rsplit(":", 1)[1],
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.cli", "serve"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(process, url, log)
        yield Backend(url, KEY, home, process, log)
    finally:
        if process.poll() is None:
            stop(process)


@pytest.fixture
def http(backend: Backend) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=backend.url, headers=backend.headers, timeout=120) as client:
        yield client
