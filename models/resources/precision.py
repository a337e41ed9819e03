"""Selects the floating-point type of a model whose `dtype` is `auto`.

A CPU without bfloat16 instructions emulates them, and float32 is faster there: decision 0051.
vLLM's own `auto` selects bfloat16 on every CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

from models.catalog import ModelSpec

_QUANTISED = ("quantization_config", "compression_config")


def resolved_dtype(spec: ModelSpec, directory: Path | None, *, bfloat16: bool) -> str:
    """Return the type that a model computes in; `auto` if vLLM or the weights decide.

    Vectors and scores are float32 on every CPU, because those of a store must not depend on the
    machine. Quantised weights have kernels for some types only, which vLLM knows.

    Args:
        spec: the model.
        directory: its files, or None if they are not known.
        bfloat16: whether the CPU computes in bfloat16.
    """
    if spec.dtype != "auto" or spec.device == "gpu":
        return spec.dtype
    if spec.task != "generate":
        return "float32"
    if spec.quantization is not None or (directory is not None and _quantised(directory)):
        return "auto"
    return "bfloat16" if bfloat16 else "float32"


def _quantised(directory: Path) -> bool:
    """Whether a model's `config.json` says that its weights are quantised."""
    try:
        whole = json.loads((directory / "config.json").read_bytes())
        parts = (whole, whole.get("text_config", {}))
        return any(part.get(key) for part in parts for key in _QUANTISED)
    except (OSError, ValueError, AttributeError):
        return False
