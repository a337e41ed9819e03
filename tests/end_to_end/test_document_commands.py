"""The commands and snippets of README.md and docs/ do what they say, against a running server.

Only the address, the tenant and the words that stand for something of the reader's are replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.document_blocks import Block, blocks, why_not_run
from tests.end_to_end.backend import MODEL, Backend, environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

ADDRESS = "http://127.0.0.1:8000"
DEADLINE_S = 600
"""Against a hang only: a small model may go on to the end of its context."""
BLOCKS = {block.name: block for block in blocks()}
CLIENT = "README.md:4"
"""The block that makes the `client` of later ones."""


def named(language: str) -> list[str]:
    return [name for name, block in BLOCKS.items() if block.language == language]


@dataclass(frozen=True)
class Reader:
    """Someone who follows the documents, in a directory with what they take for granted."""

    backend: Backend
    directory: Path
    environment: Mapping[str, str]
    words: Mapping[str, str]

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def adapted(self, text: str) -> str:
        for word, replacement in self.words.items():
            text = text.replace(word, replacement)
        return text


@pytest.fixture(scope="module")
def reader(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    directory = tmp_path_factory.mktemp("reader")
    (directory / ".ringfence").mkdir()
    (directory / ".ringfence" / "first-key").write_text(backend.key)
    (directory / "manuals").mkdir()
    (directory / "manuals" / "pump.md").write_text("# Pump\nThe pump is serviced every spring.")
    (directory / "lease.pdf").write_bytes(pdf("The tenant may give notice at the end of June."))
    variables = environment(backend.home) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "RINGFENCE_CONFIG": str(backend.log.parent / "ringfence.yaml"),
        "RINGFENCE_API_KEY": backend.key,
        "RINGFENCE_PORT": str(backend.address[1]),
        "DATABASE_URL": "sqlite:///ringfence.db",
        "OPENAI_API_KEY": "sk-none",
    }
    tenant = f"acme-{uuid4().hex[:8]}"
    created = subprocess.run(
        ["ringfence", "keys", "create", "--tenant", tenant, "--name", "doc", "--json"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    words = {
        ADDRESS: backend.url,
        "acme": tenant,
        "KEY-ID": json.loads(created.stdout)["id"],
        "TOKEN": receipt(backend),
    }
    return Reader(backend, directory, variables, words)


def receipt(backend: Backend) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    answer = httpx.post(
        f"{backend.url}/v1/chat/completions", json=body, headers=backend.headers, timeout=60
    )
    return answer.headers["x-ringfence-receipt"]


def pdf(text: str) -> bytes:
    """A page with one line of text."""
    drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /MediaBox [0 0 612 792] /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    written, places = b"%PDF-1.4\n", list[int]()
    for number, one in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(written)
    written += b"xref\n0 6\n0000000000 65535 f \n" + table
    return written + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


@pytest.mark.parametrize("name", named(""))
def test_commands_of_the_documents_run(reader: Reader, name: str) -> None:
    for command in BLOCKS[name].commands():
        if why_not_run(command) is None:
            told = reader.run("bash", "-euo", "pipefail", "-c", reader.adapted(command))
            assert told or ">" in command
            assert not told.startswith('{"error"')


@pytest.mark.parametrize("name", named("python"))
def test_python_of_the_documents_runs(reader: Reader, name: str) -> None:
    client = "" if name == CLIENT else _until_use(BLOCKS[CLIENT])
    assert reader.run(sys.executable, "-c", reader.adapted(client + BLOCKS[name].text)).strip()


def _until_use(block: Block) -> str:
    """The beginning of a block, up to where its client is used."""
    return block.text.partition("\nfor ")[0] + "\n"


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed")
@pytest.mark.parametrize("name", named("js"))
def test_javascript_of_the_documents_runs(reader: Reader, name: str) -> None:
    here = Path(__file__).parent / "node"
    for file in ("package.json", "package-lock.json"):
        shutil.copy(here / file, reader.directory)
    reader.run("npm", "ci", "--silent", "--no-audit", "--no-fund")
    (reader.directory / "snippet.mjs").write_text(reader.adapted(BLOCKS[name].text))
    assert reader.run("node", "snippet.mjs").strip() == "384"


@pytest.mark.parametrize("name", named("yaml"))
def test_configurations_of_the_documents_are_valid(reader: Reader, name: str) -> None:
    file = reader.directory / "checked.yaml"
    file.write_text(BLOCKS[name].text)
    assert reader.run("ringfence", "config", "check", "--elsewhere", "-c", str(file))
