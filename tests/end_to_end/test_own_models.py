"""Users' own models from a few lines of configuration: any architecture, any mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.running.ports import free_port
from tests.end_to_end.backend import RINGFENCE, Backend, environment, served
from tests.tiny_model import make_tiny

pytestmark = [pytest.mark.full, pytest.mark.engine, pytest.mark.timeout(900)]

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
WINDOW = {"sliding_window": 64}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}

GROUPS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "one kind of layer": {
        "qwen3": SHAPE,
        "phi3": SHAPE,
        "gpt2": {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 2048}
        | {"initializer_range": 0.2},
    },
    "windows": {
        "mistral": SHAPE | WINDOW,
        "gemma2": SHAPE | WINDOW | {"query_pre_attn_scalar": 64},
        "gemma3_text": SHAPE | WINDOW | {"query_pre_attn_scalar": 64, "num_hidden_layers": 7},
    },
    "shards and experts": {
        "llama": SHAPE,
        "mixtral": SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2},
        "qwen3_moe": SHAPE | EXPERTS | {"num_experts": 4, "mlp_only_layers": []},
    },
}
"""Fields of each model's configuration, grouped so that a group's server fits into 8 GiB."""

PROMPT = "Once upon a time there was a lighthouse that nobody needed, at the end of a long pier."
NEW_TOKENS = 24


def make(directory: Path, kind: str, fields: Mapping[str, Any]) -> Path:
    """Create random float32 weights of that architecture, with the tokenizer of `make_tiny`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    make_tiny(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # No token but a visible character is ever the best one, so that every answer is plain text.
    visible = [token.isascii() and token.isprintable() for token in tokens(tokenizer)]
    # Where it is the input's embedding too, as it stands the last token would only be repeated.
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(0.02)[~torch.tensor(visible)] = 0
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="2MB")
    return directory


def tokens(tokenizer: Any) -> list[str]:
    """Return all tokens by id; those of several characters, which are special, become newlines."""
    found = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [token if len(token) == 1 else "\n" for token in found]


def greedy(directory: Path) -> str:
    """Return the text that transformers generates."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return text


@pytest.fixture(scope="module", params=GROUPS.values(), ids=list(GROUPS))
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Backend, dict[str, Path]]]:
    """Run a server of one group, configured like the guide's example; return it and its models."""
    home = tmp_path_factory.mktemp("own")
    models = {kind: make(home / kind, kind, fields) for kind, fields in request.param.items()}
    rows = [
        {"id": kind, "source": str(directory), "context_tokens": 2048, "dtype": "float32"}
        for kind, directory in models.items()
    ]
    with served(home, json.dumps({"models": rows})) as backend:
        yield backend, models


def test_own_models_start_and_answer_as_transformers_does(
    group: tuple[Backend, dict[str, Path]],
) -> None:
    backend, models = group
    answers = {}
    for kind in models:
        body = {"model": kind, "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0}
        answer = httpx.post(
            f"{backend.url}/v1/completions", json=body, headers=backend.headers, timeout=120
        )
        answers[kind] = answer.json()["choices"][0]["text"]
    assert answers == {kind: greedy(directory) for kind, directory in models.items()}
    shown = backend.log.read_text()
    assert all(f"{kind}: computes in float32; 0." in shown for kind in models)


def ended(home: Path, **fields: Any) -> str:
    """Return the output of a start that must fail."""
    model = {"id": "mine"} | fields
    (home / "ringfence.yaml").write_text(json.dumps({"models": [model]}))
    command = [*RINGFENCE, "serve", "--port", str(free_port())]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "start (0) + length (640) exceeds dimension size (512)."),
        ({"engine_kwargs": {"kv_cache_dtype": "fp9"}}, "cache_dtype: Input should be 'auto'"),
    ],
    ids=["in a process of the engine", "in the replica"],
)
def test_reason_of_a_failed_start_is_told_in_vllms_words(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    source = make_tiny(tmp_path / "mine")
    config = json.loads((source / "config.json").read_text())
    config["intermediate_size"] = 640  # The weights have 512.
    (source / "config.json").write_text(json.dumps(config))
    told = ended(tmp_path, source=str(source), **fields)
    assert f"ringfence: Engine:mine did not start: {reason}" in told
    shutil.rmtree(source)
