"""The whole backend on the real engine, started once for the session by its public command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.catalog import builtin
from models.prepare import prepare
from tests.end_to_end.backend import KEY, MODEL, Backend, configuration, served


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
    folder = tmp_path_factory.mktemp("backend")
    with served(home, configuration(weights), folder=folder, RINGFENCE_API_KEY=KEY) as here:
        yield here


@pytest.fixture
def http(backend: Backend) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=backend.url, headers=backend.headers, timeout=120) as client:
        yield client
