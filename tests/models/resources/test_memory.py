"""Division of memory between engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.catalog import ModelSpec
from models.resources.machine import GIB, FreeMemory
from models.resources.memory import (
    ENGINE_BYTES,
    EngineMemory,
    MemoryTooSmall,
    engine_memory,
    shares,
)
from tests.tiny_model import make_tiny

MIB = 2**20


def engine(
    model: str = "m", *, least: int = 100, most: int = 1000, weights: int = 0, **fields: Any
) -> EngineMemory:
    """Sizes in MiB."""
    spec = ModelSpec(id=model, source="/m", **fields)
    return EngineMemory(spec, "float32", 2048, weights * MIB, least * MIB, most * MIB)


def shared(*engines: EngineMemory, free: int, reserved: int = 0) -> dict[str, int]:
    """Return the cache in MiB of each model, given the MiB that are free beyond the processes'
    needs."""
    processes = sum(ENGINE_BYTES * one.replicas for one in engines)
    memory = FreeMemory(free * MIB + processes, "on this machine")
    found = shares(engines, memory, reserved=reserved * MIB)
    return {model: size // MIB for model, size in found.items()}


def test_engine_gets_no_more_than_its_requests_can_use() -> None:
    assert shared(engine(), free=100_000) == {"m": 1000}


def test_engine_gets_nine_tenths_of_what_is_left_where_that_is_less() -> None:
    assert shared(engine(weights=50), free=350, reserved=100) == {"m": 100 + 90}


def test_engine_gets_what_one_context_needs_where_no_more_is_left() -> None:
    assert shared(engine(), free=100) == {"m": 100}


def test_engines_share_by_what_each_can_use() -> None:
    found = shared(engine("a", most=200), engine("b", most=1000), free=200 + 1000)
    assert found == {"a": 100 + 90, "b": 100 + 810}


def test_each_replica_gets_its_share() -> None:
    assert shared(engine(replicas=2), free=200 + 1000) == {"m": 100 + 450}
    assert shared(engine(max_replicas=2), free=200 + 1000) == {"m": 100 + 450}


def test_each_worker_of_a_parallel_model_gets_its_part() -> None:
    assert shared(engine(tensor_parallel_size=2), free=100_000) == {"m": 500}


def test_cache_that_is_configured_is_kept_and_counted() -> None:
    given = engine("given", least=300, most=300, kv_cache_gib=0.3)
    assert shared(given, engine("m"), free=300 + 200) == {"m": 100 + 90}


def test_engine_that_vllm_sizes_is_left_alone() -> None:
    assert shared(engine(engine_kwargs={"gpu_memory_utilization": 0.5}), free=1000) == {}


def test_too_little_memory_is_told_in_figures() -> None:
    big = engine("big", least=2048, most=9000, weights=1024)
    memory = FreeMemory(3 * GIB, "in a control group of 4.0 GiB")
    with pytest.raises(MemoryTooSmall) as caught:
        shares([big], memory, reserved=GIB)
    assert str(caught.value) == (
        "3.0 GiB of memory are free in a control group of 4.0 GiB, and the least that is needed is"
        " 1.0 GiB for the server and smaller models, 4.5 GiB for big (1.0 GiB of weights in"
        " float32, 2.0 GiB of cache for one context of 2,048 tokens): lower context_tokens, or"
        " serve fewer models"
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


CONTEXT = 2048 * 2 * (2 * 2 * 64)
"""Numbers in the cache of tiny's whole context: two layers of two heads of 64, keys and values."""


@pytest.mark.parametrize(("bfloat16", "width"), [(True, 2), (False, 4)])
def test_needs_of_a_model_follow_its_files_and_the_cpu(
    tiny: Path, bfloat16: bool, width: int
) -> None:
    spec = ModelSpec(id="tiny", source=str(tiny), max_ongoing_requests=3)
    found = engine_memory(spec, tiny, bfloat16=bfloat16)
    assert (found.context_tokens, found.least) == (2048, CONTEXT * width)
    assert found.most == 4 * found.least
    stored = (tiny / "model.safetensors").stat().st_size
    assert found.weights == pytest.approx(stored * width / 2, rel=0.01)


def test_cache_of_a_shorter_context_is_smaller(tiny: Path) -> None:
    spec = ModelSpec(id="tiny", source=str(tiny), context_tokens=1024)
    assert engine_memory(spec, tiny, bfloat16=True).least == CONTEXT


@pytest.mark.parametrize(
    ("kind", "width"), [("fp8", 1), ("fp8_e5m2", 1), ("bfloat16", 2), ("auto", 4)]
)
def test_cache_of_another_type_has_its_own_width(tiny: Path, kind: str, width: int) -> None:
    spec = ModelSpec(id="tiny", source=str(tiny), engine_kwargs={"kv_cache_dtype": kind})
    assert engine_memory(spec, tiny, bfloat16=False).least == CONTEXT * width


@pytest.mark.parametrize(
    "fields", [{"kv_cache_gib": 0.5}, {"engine_kwargs": {"kv_cache_memory_bytes": GIB // 2}}]
)
def test_configured_cache_is_what_the_engine_needs(tiny: Path, fields: dict[str, Any]) -> None:
    found = engine_memory(ModelSpec(id="t", source=str(tiny), **fields), tiny, bfloat16=True)
    assert (found.least, found.most) == (GIB // 2, GIB // 2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kv_cache_memory_bytes": "1G"},
        {"kv_cache_dtype": 8.5},
        {"max_num_batched_tokens": "many"},
    ],
)
def test_argument_of_a_wrong_type_is_left_for_vllm_to_refuse(
    tiny: Path, arguments: dict[str, Any]
) -> None:
    spec = ModelSpec(id="tiny", source=str(tiny), engine_kwargs=arguments)
    assert engine_memory(spec, tiny, bfloat16=True).least > 0
