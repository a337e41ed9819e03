"""Reads the headers of safetensors files: sizes and damage. Knows nothing of models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.conversion import PreparationFailed

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_HEADER_BYTES = 100_000_000
"""Maximum of the format."""


def weight_bytes(directory: Path, *, float_bytes: int) -> int:
    """Return the memory of a model's tensors after loading, in bytes.

    Args:
        directory: a directory in Hugging Face's layout.
        float_bytes: bytes per number that floating-point tensors are converted to; quantised
            tensors
            and 8-bit floats are not converted.

    Raises:
        PreparationFailed: a file is damaged or incomplete.
    """
    return sum(
        _in_memory(tensor, float_bytes) for file in _files(directory) for tensor in _tensors(file)
    )


def check_weights(directory: Path) -> None:
    """Raise if weights are visibly damaged.

    Raises:
        PreparationFailed: see `weight_bytes`.
    """
    for file in _files(directory):
        for _ in _tensors(file):
            pass


def _files(directory: Path) -> list[Path]:
    """Return the safetensors files to load: those of the index, or all."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    shards = set(json.loads(index.read_bytes())["weight_map"].values())
    return sorted(directory / shard for shard in shards)


def _in_memory(tensor: dict[str, Any], float_bytes: int) -> int:
    if tensor["dtype"] in _FLOATS:
        return int(math.prod(tensor["shape"])) * float_bytes
    begin, end = tensor["data_offsets"]
    return int(end - begin)


def _tensors(file: Path) -> Iterator[dict[str, Any]]:
    """Yield each tensor's entry. Format: https://github.com/huggingface/safetensors#format."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise PreparationFailed(f"{file} is not a complete safetensors file.")
        try:
            header = json.loads(opened.read(length))
            tensors = [header[name] for name in header if name != "__metadata__"]
            end = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        except (ValueError, TypeError, LookupError):
            raise PreparationFailed(f"{file} is damaged: its header cannot be read.") from None
    if size != 8 + length + end:
        raise PreparationFailed(
            f"{file} is damaged: it has {size:,} bytes, and should have {8 + length + end:,}."
        )
    yield from tensors
