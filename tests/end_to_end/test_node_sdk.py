"""The official Node SDK against the real engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.backend import EMBEDDER, EXACT_MODEL, MODEL, Backend

HERE = Path(__file__).parent / "node"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
]


def test_node_sdk_passes_its_contract(backend: Backend, tmp_path: Path) -> None:
    for name in ("package.json", "package-lock.json", "contract.mjs"):
        shutil.copy(HERE / name, tmp_path)
    subprocess.run(
        ["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=tmp_path, check=True, timeout=180
    )
    environment = os.environ | {"RINGFENCE_URL": backend.url, "RINGFENCE_KEY": backend.key}
    done = subprocess.run(
        ["node", "contract.mjs", MODEL, EXACT_MODEL, EMBEDDER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
