"""Sizes and damage of safetensors files, from their headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.conversion import PreparationFailed
from models.resources.weights import check_weights, weight_bytes


def header(**tensors: Any) -> bytes:
    raw = json.dumps(tensors).encode()
    return len(raw).to_bytes(8, "little") + raw


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write one plain tensor of 6 numbers, and one quantised tensor of 10 bytes."""
    raw = header(
        __metadata__={"format": "pt"},
        plain=tensor("BF16", [2, 3], 0, 12),
        quantised=tensor("I8", [10], 12, 22),
    )
    (tmp_path / "model.safetensors").write_bytes(raw + bytes(22))
    return tmp_path


@pytest.mark.parametrize(("float_bytes", "size"), [(2, 12 + 10), (4, 24 + 10)])
def test_memory_of_weights_is_counted_in_the_type_they_are_converted_to(
    weights: Path, float_bytes: int, size: int
) -> None:
    assert weight_bytes(weights, float_bytes=float_bytes) == size


def test_shards_are_those_of_the_index(weights: Path) -> None:
    (weights / "other.safetensors").write_bytes(header(a=tensor("F32", [3], 0, 12)) + bytes(12))
    index = {"weight_map": {"a": "other.safetensors", "b": "other.safetensors"}}
    (weights / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(weights, float_bytes=2) == 6


def test_whole_weights_are_let_be(weights: Path) -> None:
    check_weights(weights)


WHOLE = header(a=tensor("F32", [3], 0, 12)) + bytes(12)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        WHOLE[:4],
        WHOLE[:20],
        WHOLE[:-1],
        WHOLE + b"x",
        (10**15).to_bytes(8, "little") + WHOLE[8:],
        b"\x06" + bytes(7) + b"[1, 2]",
        b"\x08" + bytes(7) + b'{"a": 1}',
        b"\x04" + bytes(7) + b"\xff\xff{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    ],
    ids=[
        *("empty", "no header", "half a header", "short", "long", "huge header", "a list"),
        *("no tensors", "not UTF-8", "a pointer of Git LFS"),
    ],
)
def test_damaged_weights_are_refused_by_their_name(weights: Path, content: bytes) -> None:
    (weights / "model.safetensors").write_bytes(content)
    with pytest.raises(PreparationFailed, match=r"model\.safetensors"):
        check_weights(weights)
