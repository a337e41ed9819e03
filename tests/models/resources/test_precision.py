"""The type that `dtype: auto` selects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.catalog import ModelSpec, builtin
from models.resources.precision import resolved_dtype


def own(**fields: Any) -> ModelSpec:
    return ModelSpec(id="m", source="/models/m", **fields)


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_engine_on_a_cpu_computes_in_what_the_cpu_has(bfloat16: bool, dtype: str) -> None:
    assert resolved_dtype(own(), None, bfloat16=bfloat16) == dtype
    default = builtin()["smollm2-135m-instruct"]
    assert resolved_dtype(default, None, bfloat16=bfloat16) == dtype


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "half", "float"])
def test_type_that_is_configured_is_taken(bfloat16: bool, dtype: str) -> None:
    assert resolved_dtype(own(dtype=dtype), None, bfloat16=bfloat16) == dtype


@pytest.mark.parametrize("bfloat16", [True, False])
def test_type_on_a_gpu_is_left_to_vllm(bfloat16: bool) -> None:
    assert resolved_dtype(own(device="gpu"), None, bfloat16=bfloat16) == "auto"


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_vectors_and_scores_are_of_one_type_on_every_cpu(task: str, bfloat16: bool) -> None:
    spec = own(task=task, engine="sentence-transformers")
    assert resolved_dtype(spec, None, bfloat16=bfloat16) == "float32"


def test_type_of_quantised_weights_is_left_to_vllm(tmp_path: Path) -> None:
    assert resolved_dtype(own(quantization="awq"), None, bfloat16=False) == "auto"
    config = tmp_path / "config.json"
    for content in (
        {"quantization_config": {"quant_method": "gptq"}},
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        {"compression_config": {"format": "int-quantized"}},
    ):
        config.write_text(json.dumps(content))
        assert resolved_dtype(own(), tmp_path, bfloat16=False) == "auto"


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"text_config": null}'])
def test_weights_that_are_not_quantised_leave_the_choice_to_the_cpu(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert resolved_dtype(own(), tmp_path, bfloat16=False) == "float32"
