"""Creates API keys of a server that is not running yet, with the operator's command."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.running.arms import Arm
from benchmarks.running.measure import MeasurementError

DEADLINE_S = 120.0


def new_key(arm: Arm, *, tenant: str, name: str, privacy: str = "local_only") -> str:
    """Create a key of `tenant` whose requests have the class `privacy`; returns its text.

    Raises:
        MeasurementError: The command fails.
    """
    command = (sys.executable, "-m", "serving.cli", "keys", "create")
    # The command and the names are fixed.
    made = subprocess.run(  # noqa: S603
        [*command, "--tenant", tenant, "--name", name, "--privacy", privacy],
        env={**os.environ, **arm.environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if made.returncode:
        raise MeasurementError(f"no key for {tenant}: {made.stderr.strip()}")
    return made.stdout.strip()
