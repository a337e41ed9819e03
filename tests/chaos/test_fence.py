"""Nothing leaves this machine from the first process to the last: no packet, no DNS query.

Every packet is recorded in a network namespace; the only one that may leave is a provider's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(700)
"""Time-out of a test whose fixture starts and stops a whole server."""


def can_unshare() -> bool:
    """Whether a network namespace can be created here."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode == 0


def watched(home: Path, kind: str) -> dict[str, Any]:
    """The phases of one run by name: what `left`, and what clients `said`."""
    if not can_unshare():
        pytest.skip("no network namespace can be made here: needs root, unshare and ip")
    command = ["unshare", "--net", "--mount", "--", sys.executable, "-m", "tests.chaos.fence"]
    ended = subprocess.run(
        [*command, str(home), kind],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["missed"] == 0
    phases: dict[str, Any] = found["phases"]
    return phases


@pytest.fixture(scope="module")
def overflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return watched(tmp_path_factory.mktemp("fence"), "overflow")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return watched(tmp_path_factory.mktemp("fence"), "inside")


def test_recorder_sees_connections_and_look_ups(overflow: dict[str, Any]) -> None:
    left = set(overflow["attempts"]["left"])
    assert {"tcp 169.254.169.254:80", "dns metadata.google.internal"} <= left


@pytest.mark.parametrize("phase", ["start", "healthy", "full", "dead", "stop"])
def test_nothing_but_requests_that_may_leave_does(overflow: dict[str, Any], phase: str) -> None:
    assert overflow[phase]["left"] == []


def test_local_only_request_without_an_engine_is_told_to_come_again(
    overflow: dict[str, Any],
) -> None:
    assert set(overflow["healthy"]["said"]) <= {200, 404}
    assert {503} <= set(overflow["full"]["said"]) | set(overflow["dead"]["said"])
    assert 500 not in overflow["dead"]["said"]


def test_request_that_may_leave_goes_to_the_provider_only(overflow: dict[str, Any]) -> None:
    assert set(overflow["open"]["left"]) == {"tcp 192.0.2.1:80"}


@pytest.mark.parametrize("phase", ["before", "start", "healthy", "commands", "stop"])
def test_nothing_leaves_without_a_provider(inside: dict[str, Any], phase: str) -> None:
    assert inside[phase]["left"] == []


def test_commands_that_are_watched_work(inside: dict[str, Any]) -> None:
    wrong = inside["before"]["said"] | inside["commands"]["said"]
    assert {line: why for line, why in wrong.items() if why} == {}


@pytest.mark.full  # The real engine a second time: nothing leaves in its start and its answers.
def test_nothing_leaves_with_a_real_engine(tmp_path: Path) -> None:
    phases = watched(tmp_path, "engine")
    assert phases["engine"]["said"] == [200]
    watched_phases = {name: one for name, one in phases.items() if name != "attempts"}
    assert {name: one["left"] for name, one in watched_phases.items() if one["left"]} == {}
