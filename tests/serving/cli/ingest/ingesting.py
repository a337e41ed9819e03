"""Fixtures and helpers for tests of `ringfence ingest`: a gateway, a folder and the command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from serving.cli.clients.documents import DocumentsClient
from serving.cli.commands import ingest as command
from serving.cli.ingest.plan import Contents, Plan, Source, plan
from serving.cli.ingest.run import IngestRun
from tests.serving.cli.live_gateway import WITHIN_S, Client, Live, client, gateway

Ingest = Callable[..., Result]


@pytest.fixture(scope="module")
def live(embedded_valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with gateway(tmp_path_factory.mktemp("gateway"), embedded_valkey_url) as running:
        yield running


@pytest.fixture
def api(live: Live, home: Path) -> Iterator[Client]:
    live.tap.seen.clear()
    with client(live, home) as made:
        yield made
    live.tap.refuses = lambda _: False


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return folder(tmp_path / "one" / "docs", "a.txt", "sub/b.md")


@pytest.fixture
def ingest(api: Client) -> Ingest:
    app = typer.Typer()
    app.command()(command.ingest)

    def invoke(*arguments: str | Path, code: int = 0) -> Result:
        fixed = ["--store", "manuals", "--url", api.live.url, "--key", api.key]
        result = CliRunner().invoke(app, [*fixed, *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def library_client(api: Client) -> Iterator[DocumentsClient]:
    """The parts of the command, for tests that act between two of its steps."""
    with httpx.Client(base_url=f"{api.live.url}/v1", headers=api.http.headers) as http:
        yield DocumentsClient(http)


def folder(root: Path, *names: str, text: str = "text of") -> Path:
    """Create a folder with a file of each name."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text} {name}")
    return root


def done(result: Result) -> dict[str, str]:
    return {one["path"]: one["done"] for one in json.loads(result.stdout)}


def reasons(result: Result) -> dict[str, str]:
    """Return the reasons of failures by path."""
    told = json.loads(result.stdout)
    return {one["path"]: one["reason"] for one in told if one["done"] == "failed"}


def told_by(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, str]]]:
    """Wait for a run in a process that prints no errors; return exit code and outcomes."""
    stdout, stderr = process.communicate(timeout=WITHIN_S)
    assert stderr == ""
    return process.returncode, json.loads(stdout)


def planned(documents: DocumentsClient, docs: Path) -> tuple[IngestRun, Plan]:
    """Return a run that has planned and not yet acted."""
    store = documents.store("manuals")
    contents = Contents(documents.attached(store))
    todo = plan(contents, [Source.at(docs, None)], exclude=(), keep_deleted=False)
    return IngestRun(documents, store, {}), todo
