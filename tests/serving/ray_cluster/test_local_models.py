"""Whether and how models can run on a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.resources.machine import GIB, FreeMemory, Machine
from serving.config import Settings, parse
from serving.ray_cluster.local_models import CannotRun, check_contexts, check_files, local_engines
from tests.tiny_model import make_tiny


def machine(gib: float = 20, *, bfloat16: bool = True, gpus: int = 0) -> Machine:
    return Machine(FreeMemory(int(gib * GIB), "on this machine"), bfloat16, gpus)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def served(tiny: Path, tmp_path: Path) -> Any:
    """Settings of the tiny model with further fields, and more models beside it."""

    def settings(*others: Any, ray: dict[str, Any] | None = None, **fields: Any) -> Settings:
        own = {"id": "m", "source": str(tiny)} | fields
        raw = {"models": [own, *others], "ray": ray or {}}
        return parse(raw, {"RINGFENCE_HOME": str(tmp_path / "home")})

    return settings


def told(settings: Settings, machine: Machine) -> list[str]:
    return [str(engine) for engine in local_engines(settings, machine)]


def test_model_of_three_lines_gets_a_cache(served: Any) -> None:
    engine = local_engines(served(context_tokens=2048), machine())[0]
    assert engine.cache_bytes == 33 * 2 * 2**20
    assert str(engine) == "m: computes in bfloat16; 0.06 GiB of KV cache"


def test_cpu_without_bfloat16_is_told_with_the_type_it_leads_to(served: Any) -> None:
    assert told(served(), machine(bfloat16=False)) == [
        "m: computes in float32 (this CPU has no bfloat16); 0.13 GiB of KV cache"
    ]


@pytest.mark.parametrize("bfloat16", [True, False])
def test_type_that_is_configured_is_told_without_a_reason(served: Any, bfloat16: bool) -> None:
    assert told(served(dtype="float32", kv_cache_gib=1), machine(bfloat16=bfloat16)) == [
        "m: computes in float32; 1.00 GiB of KV cache"
    ]


def test_other_models_of_the_configuration_are_left_their_memory(served: Any) -> None:
    with pytest.raises(CannotRun, match=r"2\.5 GiB for the server and smaller models"):
        local_engines(served("all-minilm-l6-v2"), machine(3.0))
    assert told(served("simulated"), machine(3.2))


def test_model_that_does_not_fit_is_refused_in_figures(served: Any) -> None:
    with pytest.raises(CannotRun) as caught:
        local_engines(served(), machine(2))
    assert "\n".join(caught.value.problems) == (
        "2.0 GiB of memory are free on this machine, and the least that is needed is 1.5 GiB for"
        " the server and smaller models, 1.5 GiB for m (0.0 GiB of weights in bfloat16, 0.0 GiB"
        " of cache for one context of 2,048 tokens): lower context_tokens, or serve fewer models"
    )


def test_configured_cache_that_cannot_be_had_is_refused(served: Any) -> None:
    with pytest.raises(CannotRun) as caught:
        local_engines(served(kv_cache_gib=40), machine())
    assert caught.value.problems == [
        "m: 40.0 GiB of KV cache are more than the 20.0 GiB of memory that are free on this machine"
    ]


def test_configured_cache_is_not_refused_by_an_estimate(served: Any) -> None:
    assert told(served(kv_cache_gib=1.5), machine(2))


def test_models_of_a_cluster_are_not_looked_at(served: Any) -> None:
    cluster = {"address": "10.0.0.5:6379"}
    settings = served(ray=cluster, device="gpu", context_tokens=10**6)
    check_files(settings, machine())
    check_contexts(settings)
    assert local_engines(settings, machine(0)) == []


@pytest.mark.parametrize(
    ("fields", "gpus", "problem"),
    [
        ({}, 0, "device: gpu: GPUs needed: 1; this machine has none"),
        ({"tensor_parallel_size": 4, "replicas": 2}, 7, "GPUs needed: 8; this machine has 7"),
    ],
)
def test_gpus_that_are_not_there_are_refused(
    served: Any, fields: dict[str, Any], gpus: int, problem: str
) -> None:
    with pytest.raises(CannotRun, match=problem):
        check_files(served(device="gpu", **fields), machine(gpus=gpus))


def test_gpus_that_are_there_are_enough(served: Any) -> None:
    check_files(served(device="gpu", tensor_parallel_size=4), machine(gpus=4))


def test_every_model_whose_files_are_wrong_is_told(served: Any, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{}")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CannotRun) as caught:
        check_files(
            served(
                {"id": "a", "source": "/no/such/place"},
                {"id": "b", "source": str(tmp_path / "damaged")},
                {"id": "c", "source": "org/not-fetched"},
            ),
            machine(),
        )
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["a", "b", "c"]
    assert "'/no/such/place' is not a directory" in caught.value.problems[0]
    assert "model.safetensors is not a complete safetensors file" in caught.value.problems[1]
    assert "ringfence models pull c" in caught.value.problems[2]


def test_more_context_than_the_model_has_is_refused(served: Any, tiny: Path) -> None:
    with pytest.raises(CannotRun) as caught:
        check_contexts(served(context_tokens=2049))
    assert "\n".join(caught.value.problems) == (
        "m: context_tokens: 2,049 are more than the 2,048 that the model has by"
        f" {tiny / 'config.json'}"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"context_tokens": 2048},
        {"context_tokens": 4096, "engine_kwargs": {"hf_overrides": {"rope_scaling": {}}}},
    ],
)
def test_context_that_the_model_has_is_taken(served: Any, fields: dict[str, Any]) -> None:
    check_contexts(served(**fields))


def test_model_that_transformers_does_not_know_is_told(served: Any, tmp_path: Path) -> None:
    directory = make_tiny(tmp_path / "unknown")
    config = json.loads((directory / "config.json").read_text()) | {"model_type": "no-such"}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CannotRun, match=r"config\.json: .*no-such"):
        local_engines(served(source=str(directory)), machine())
