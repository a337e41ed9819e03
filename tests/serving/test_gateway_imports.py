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
MAX_MODULES = 2000
"""Time and memory of a start by something that no machine changes: 1,816 took 2.2 s, 250 MB."""

_MEASURE = """
import json, sys
import {module}
modules = len(sys.modules)
loaded = sorted(set(m.partition(".")[0] for m in sys.modules) & set({heavy!r}))
extra = [m for m in sys.modules if m.startswith(("ray.llm", "ray.serve.llm"))]
print(json.dumps([modules, loaded + extra]))
"""


def measure(module: str) -> tuple[int, list[str]]:
    """How many modules, and which heavy ones, after importing `module` in a new process."""
    script = _MEASURE.format(module=module, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    modules, loaded = json.loads(done.stdout)
    return modules, loaded


def modules_of_the_gateway() -> list[str]:
    """What `serving.app` and the wiring of a gateway import at their tops, of our own."""
    roots = ("serving/app.py", "serving/wiring/gateway.py", "serving/wiring/models.py")
    names = []
    for node in [node for root in roots for node in ast.parse((ROOT / root).read_text()).body]:
        if isinstance(node, ast.ImportFrom) and node.module in ("models", "serving"):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("models.", "serving.")
        ):
            names.append(str(node.module))
    return sorted(set(names))


def test_gateway_imports_its_parts() -> None:
    assert {"serving.gateway.app", "serving.pipeline", "models.remote.engine"} <= set(
        modules_of_the_gateway()
    )


@pytest.fixture(scope="module")
def measured() -> tuple[int, list[str]]:
    return measure("serving.app")


def test_gateway_imports_neither_torch_nor_vllm(measured: tuple[int, list[str]]) -> None:
    assert measured[1] == []


def test_gateway_imports_few_modules(measured: tuple[int, list[str]]) -> None:
    assert measured[0] < MAX_MODULES
