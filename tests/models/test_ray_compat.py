"""What a Ray Serve replica learns of its stop, on its own cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.stack
def test_full_replica_is_urged_and_hears_of_its_stop_before_its_requests_have_ended(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("replica_stop_scenario.py")), str(log)],
        env={"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[0] == "answered"  # Ray adds lines of its own.
    assert log.read_text().splitlines() == ["asked", "urged", "stopped by Ray Serve", "closed"]
