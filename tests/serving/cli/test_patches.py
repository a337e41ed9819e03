"""A Ray or vLLM that a patch does not fit is told before anything runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.running.ports import free_port
from tests.serving.cli.conftest import Run

ANOTHER_RAY = """
import ray.serve._private.haproxy as haproxy
haproxy.HAPROXY_CONFIG_TEMPLATE = haproxy.HAPROXY_CONFIG_TEMPLATE.replace("mode 666", "mode 640")
from serving.cli import main
main()
"""


def another_template(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import haproxy

    changed = haproxy.HAPROXY_CONFIG_TEMPLATE.replace("mode 666", "mode 640")
    monkeypatch.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", changed)


def test_doctor_fails_for_a_patch_that_does_not_fit(
    run: Run, config_file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_template(monkeypatch)
    configuration = config_file(json.dumps({"models": ["simulated"]}))
    rows = json.loads(run("doctor", "--json", "-c", configuration, code=1).stdout)
    (row,) = [row for row in rows if row["check"].startswith("patch")]
    assert row["state"] == "fail"
    assert row["detail"].startswith("the patch 'HAProxy without open doors' does not fit ray ")


def test_serve_refuses_to_start_with_a_patch_that_does_not_fit(
    config_file: Callable[[str], str], home: Path
) -> None:
    port = free_port()
    configuration = config_file(json.dumps({"models": ["simulated"], "server": {"port": port}}))
    ended = subprocess.run(
        [sys.executable, "-c", ANOTHER_RAY, "serve", "-c", configuration],
        env=os.environ | {"RINGFENCE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "ringfence: the patch 'HAProxy without open doors' does not fit ray " in ended.stderr
    assert "the admin socket" in ended.stderr
    assert "Starting Ray" not in ended.stderr
