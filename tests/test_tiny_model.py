from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.catalog import ModelSpec
from models.prepare import prepare
from tests.tiny_model import make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_tiny_is_a_few_megabytes_that_prepare_accepts(tiny: Path, tmp_path: Path) -> None:
    assert sum(map(len, contents(tiny).values())) < 4_000_000
    assert prepare(ModelSpec(id="tiny", source=str(tiny)), tmp_path) == tiny


def test_tiny_is_the_same_for_the_same_seed_and_another_for_another(
    tiny: Path, tmp_path: Path
) -> None:
    import torch

    state = torch.random.get_rng_state()
    same = contents(make_tiny(tmp_path / "same"))
    other = contents(make_tiny(tmp_path / "other", seed=1))
    assert same == contents(tiny)
    assert other.pop("model.safetensors") != same.pop("model.safetensors")
    assert other == same
    assert torch.equal(state, torch.random.get_rng_state())


def test_tiny_generates_with_transformers(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    inputs = tokenizer("Hello", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert output.shape == (1, 5 + 8)
    assert len(set(output[0, 5:].tolist())) > 1


def test_tiny_tokenizer_is_reversible_and_speaks_chatml(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = "née \x00 日本 \U0001f600\n  two"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    messages = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(prompt)["input_ids"].count(tokenizer.bos_token_id) == 2
    assert tokenizer.eos_token == "<|im_end|>"


VLLM = """
import sys
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], enforce_eager=True, dtype="bfloat16", max_model_len=256)
sampling = SamplingParams(max_tokens=8, ignore_eos=True, temperature=0)
assert len(llm.chat([{"role": "user", "content": "Hi"}], sampling)[0].outputs[0].token_ids) == 8
"""


@pytest.mark.full
def test_tiny_generates_with_vllm(tiny: Path) -> None:
    command = [sys.executable, "-c", VLLM, str(tiny)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
