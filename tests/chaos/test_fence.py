"""A `local_only` request never leaves, whatever state the engine is in: no packet, no look-up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def can_unshare() -> bool:
    """Whether a network namespace can be made here."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not can_unshare():
        pytest.skip("no network namespace can be made here: needs root, unshare and ip")
    home = tmp_path_factory.mktemp("fence")
    ended = subprocess.run(
        ["unshare", "--net", "--", sys.executable, "-m", "tests.chaos.fence", str(home)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("state", ["healthy", "full", "dead"])
def test_local_only_request_sends_nothing_out(told: dict[str, Any], state: str) -> None:
    assert told[state]["packets"] == 0


def test_local_only_request_without_an_engine_is_told_to_come_again(told: dict[str, Any]) -> None:
    assert set(told["healthy"]["statuses"]) <= {200, 404}
    assert {503} <= set(told["full"]["statuses"]) | set(told["dead"]["statuses"])
    assert 500 not in told["dead"]["statuses"]


def test_fence_would_have_seen_a_request_that_may_leave(told: dict[str, Any]) -> None:
    assert told["open"]["packets"] > 0, told["open"]
