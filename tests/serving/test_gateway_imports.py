"""The gateway's process stays light: no torch, no vllm, and a quick start."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "sentence_transformers",
    "gguf",
    "accelerate",
    "chromadb",
    "pandas",
)
MAX_IMPORT_S = 3.0
MAX_RESIDENT_MB = 250

_MEASURE = """
import json, sys, time
import {module}
cpu_s = time.process_time()  # Since the interpreter started.
import psutil
loaded = sorted(set(m.partition(".")[0] for m in sys.modules) & set({heavy!r}))
extra = [m for m in sys.modules if m.startswith(("ray.llm", "ray.serve.llm"))]
print(json.dumps([cpu_s, psutil.Process().memory_info().rss / 1e6, loaded + extra]))
"""


def measure(module: str) -> tuple[float, float, list[str]]:
    """CPU seconds, resident MB and heavy modules after importing `module` in a new process."""
    script = _MEASURE.format(module=module, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    cpu_s, resident_mb, loaded = json.loads(done.stdout)
    return cpu_s, resident_mb, loaded


def modules_of_the_gateway() -> list[str]:
    """What `serving.app` imports at its top, of our own."""
    tree = ast.parse((ROOT / "serving/app.py").read_text())
    names = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in ("models", "serving"):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("models.", "serving.")
        ):
            names.append(str(node.module))
    return sorted(set(names))


def test_gateway_imports_its_parts() -> None:
    assert {"serving.gateway.app", "serving.pipeline", "models.remote_engine"} <= set(
        modules_of_the_gateway()
    )


@pytest.fixture(scope="module")
def measured() -> tuple[float, float, list[str]]:
    """The best of three: other processes only make it slower."""
    runs = [measure("serving.app") for _ in range(3)]
    return min(run[0] for run in runs), min(run[1] for run in runs), runs[0][2]


def test_gateway_imports_neither_torch_nor_vllm(measured: tuple[float, float, list[str]]) -> None:
    assert measured[2] == []


def test_gateway_imports_within_three_seconds(measured: tuple[float, float, list[str]]) -> None:
    assert measured[0] < MAX_IMPORT_S


def test_gateway_needs_less_than_250_mb(measured: tuple[float, float, list[str]]) -> None:
    assert measured[1] < MAX_RESIDENT_MB
