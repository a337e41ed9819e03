"""Context and KV cache of models, from `config.json` as transformers completes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.conversion import PreparationFailed
from models.resources.architecture import Architecture, architecture


def read(directory: Path, **config: Any) -> Architecture:
    (directory / "config.json").write_text(json.dumps(config))
    return architecture(directory)


SMALL = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
}


@pytest.mark.parametrize(
    ("config", "values", "windows", "context"),
    [
        ({"model_type": "llama", "max_position_embeddings": 8192}, 2 * 2 * 16, [None] * 4, 8192),
        ({"model_type": "qwen3", "head_dim": 128}, 2 * 2 * 128, [None] * 4, 32768),
        ({"model_type": "mistral", "sliding_window": 4096}, 2 * 2 * 16, [4096] * 4, 131072),
        (
            {"model_type": "gemma2", "head_dim": 32, "sliding_window": 512},
            2 * 2 * 32,
            [512, None, 512, None],
            8192,
        ),
        (
            {
                "model_type": "gemma3_text",
                "head_dim": 32,
                "sliding_window": 512,
                "num_hidden_layers": 7,
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
            2 * 2 * 32,
            [512, 512, 512, 512, 512, None, 512],
            32768,
        ),
        ({"model_type": "falcon", "multi_query": True}, 2 * 1 * 16, [None] * 4, 2048),
        (
            {
                "model_type": "deepseek_v3",
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "max_position_embeddings": 4096,
            },
            576,
            [None] * 4,
            4096,
        ),
        (
            {
                "model_type": "qwen2",
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            2 * 2 * 16,
            [None] * 4,
            131072,
        ),
        (
            {
                "model_type": "llama",
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            2 * 2 * 16,
            [None] * 4,
            131072,
        ),
        (
            {
                "model_type": "llama",
                "max_position_embeddings": 4096,
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            },
            2 * 2 * 16,
            [None] * 4,
            8192,
        ),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_architecture_is_what_the_configuration_says(
    tmp_path: Path, config: dict[str, Any], values: int, windows: list[int | None], context: int
) -> None:
    found = read(tmp_path, **SMALL | config)
    assert found == Architecture(context, values, tuple(windows))


def test_names_of_older_models_are_known(tmp_path: Path) -> None:
    found = read(tmp_path, model_type="gpt2", n_embd=64, n_head=4, n_layer=3, n_positions=1024)
    assert found == Architecture(1024, 2 * 4 * 16, (None,) * 3)


def test_model_that_also_sees_is_read_by_its_text_part(tmp_path: Path) -> None:
    text = SMALL | {"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 512}
    found = read(tmp_path, model_type="gemma3", text_config=text)
    assert (found.values_per_token, found.windows) == (2 * 2 * 32, (512,) * 4)


@pytest.mark.parametrize(
    "config",
    [{}, {"model_type": "no-such-model"}, {"model_type": "llama", "hidden_size": "wide"}],
    ids=["empty", "unknown", "wrong"],
)
def test_configuration_that_transformers_cannot_read_is_told_by_its_file(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(PreparationFailed, match=r"config\.json: ") as caught:
        read(tmp_path, **config)
    assert "\n" not in str(caught.value)


def cache(context: int, windows: list[int | None], step: int = 256) -> int:
    """Return the blocks of one sequence, summed over layers."""
    one = Architecture(context, 10, tuple(windows))
    size = one.cache_bytes(context, step_tokens=step, value_bytes=2)
    return size // (128 * 10 * 2)


@pytest.mark.parametrize(
    ("context", "windows", "blocks"),
    [
        (1024, [None, None], 16),
        (1025, [None], 9),
        (8192, [512], 4 + 2 + 1),
        (8192, [512, None], 7 + 64),
        (256, [512], 2 + 1),
        (8192, [512] * 5 + [None], 5 * 7 + 64),
        (8192, [512] * 7 + [None] * 2, 2 * (4 * 7 + 64)),
        (8192, [512] * 4 + [None] * 5, 5 * (7 + 64)),
    ],
)
def test_cache_of_a_sequence_is_whole_blocks_in_each_layer(
    context: int, windows: list[int | None], blocks: int
) -> None:
    assert cache(context, windows) == blocks
