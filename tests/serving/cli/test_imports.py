"""The command imports Ray only after it has set the environment that Ray reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_command_does_not_import_ray_at_its_top() -> None:
    script = "import sys, serving.cli.root; print('ray' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    assert ended.stdout.strip() == "False"
