from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serving.cli.root import app
from tests.serving.cli.ingest.ingesting import (  # noqa: F401  Fixtures.
    api,
    docs,
    ingest,
    library_client,
    live,
)
from tests.serving.storage.databases import (  # noqa: F401  Fixtures.
    database,
    database_url,
    empty_url,
    postgres_url,
)

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory, and a clean environment."""
    for name in [name for name in os.environ if name.startswith("RINGFENCE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RINGFENCE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def config_file(tmp_path: Path, home: Path) -> Callable[[str], str]:  # noqa: ARG001  Sets it up.
    def write(text: str) -> str:
        file = tmp_path / "ringfence.yaml"
        file.write_text(text)
        return str(file)

    return write


@pytest.fixture
def run(home: Path) -> Run:  # noqa: ARG001  Sets it up.
    """Run `ringfence` with arguments; `code` is the expected exit code."""

    def invoke(*arguments: str, code: int = 0, text: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=text)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return invoke
