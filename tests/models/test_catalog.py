"""Catalogue entries: validation, and the options of deployments."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from models.catalog import ModelSpec, PackagedSource, Price, builtin


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": "m", "engine": "simulated"} | fields)


def test_built_in_models_need_no_download() -> None:
    sources = {name: type(entry.source) for name, entry in builtin().items()}
    assert sources == {
        "smollm2-135m-instruct": PackagedSource,
        "all-minilm-l6-v2": PackagedSource,
        "simulated": type(None),
    }


def test_built_in_models_name_their_licence_and_context() -> None:
    assert all(entry.licence != "unknown" for entry in builtin().values())
    assert all(entry.context_tokens for entry in builtin().values())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"task": "embed"}, "sentence-transformers"),
        ({"task": "rerank"}, "sentence-transformers"),
        ({"engine": "sentence-transformers", "source": "a"}, "sentence-transformers"),
        ({"engine": "vllm"}, "needs a source"),
        ({"accelerator_type": "H100"}, "needs device: gpu"),
        ({"replicas": 3, "max_replicas": 2}, "below replicas"),
        ({"unknown": 1}, "Extra inputs"),
        ({"id": ""}, "pattern"),
        ({"id": "a b"}, "pattern"),
        ({"id": "../a"}, "pattern"),
        ({"id": "a" * 129}, "pattern"),
        ({"context_tokens": 5}, "16"),
        ({"max_ongoing_requests": 0}, "1"),
        ({"simulation": {"max_batch": 0}}, "1"),
        ({"source": {"package": "a"}}, "file"),
        ({"price": {"input_per_million": -1}}, "greater than or equal to 0"),
        ({"price": {"output_per_million": 1_000_001}}, "less than or equal to 1000000"),
        ({"price": {"cached_input_per_million": "0.0000001"}}, "6 decimal places"),
        ({"price": {"per_gpu_second": float("nan")}}, "finite"),
        ({"price": {"per_gpu_second": float("inf")}}, "finite"),
        ({"price": {"per_million": 1}}, "Extra inputs"),
    ],
)
def test_entry_that_makes_no_sense_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        spec(**fields)


@pytest.mark.parametrize("model", ["org/Model-7B.v1", "a", "m:latest", "x_y"])
def test_names_as_clients_know_them_are_taken(model: str) -> None:
    assert spec(id=model).id == model


def test_deployments_are_named_after_task_and_model() -> None:
    embedding = {"task": "embed", "engine": "sentence-transformers", "source": "a"}
    assert spec().deployment_name == "Engine:m"
    assert spec(**embedding).deployment_name == "Embedder:m"
    assert spec(**embedding | {"task": "rerank"}).deployment_name == "Reranker:m"
    assert "/" not in spec(id="org/name").deployment_name


def test_only_the_simulated_engine_is_simulated() -> None:
    assert spec().simulated
    assert not spec(engine="vllm", source="a").simulated


@pytest.mark.parametrize("fields", [{}, {"max_replicas": 1}])
def test_replicas_are_fixed_unless_a_higher_bound_is_given(fields: dict[str, Any]) -> None:
    scaling = spec(**fields).scaling(drain_s=7)
    assert scaling["num_replicas"] == 1
    assert "autoscaling_config" not in scaling


def test_autoscaling_follows_running_requests() -> None:
    scaling = spec(replicas=2, max_replicas=5, max_ongoing_requests=10).scaling(drain_s=7)
    assert "num_replicas" not in scaling
    assert scaling["autoscaling_config"] == {
        "min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 5
    }  # fmt: skip


@pytest.mark.parametrize("fields", [{"replicas": 2}, {"max_replicas": 2}])
def test_conversations_keep_their_replica_where_there_are_several(fields: dict[str, Any]) -> None:
    router = spec(**fields).scaling(drain_s=7)["request_router_config"]
    assert router == {"request_router_class": "models.vllm.prefix_router:PrefixRouter"}


@pytest.mark.parametrize(
    "fields",
    [{}, {"task": "embed", "engine": "sentence-transformers", "source": "a", "replicas": 2}],
)
def test_routing_is_left_to_ray_where_no_prefix_can_be_met(fields: dict[str, Any]) -> None:
    assert "request_router_config" not in spec(**fields).scaling(drain_s=7)


def test_replicas_are_given_time_to_drain() -> None:
    assert spec().scaling(drain_s=7)["graceful_shutdown_timeout_s"] == 7


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "all-minilm-l6-v2", "simulated"])
def test_queues_are_finite(name: str) -> None:
    scaling = builtin()[name].scaling(drain_s=7)
    assert 0 < scaling["max_ongoing_requests"] <= 1000
    assert 0 <= scaling["max_queued_requests"] <= 1000


def test_entry_is_frozen_and_travels_between_processes() -> None:
    entry = spec(engine_kwargs={"allowed_origins": [1]})
    assert pickle.loads(pickle.dumps(entry)) == entry  # noqa: S301  Our own bytes.
    with pytest.raises(ValidationError, match="frozen"):
        entry.id = "n"  # type: ignore[misc]


def test_model_costs_nothing_unless_it_has_a_price() -> None:
    assert spec().price == Price() == spec(price={}).price
    assert all(entry.price == Price() for entry in builtin().values())


@pytest.mark.parametrize("written", ["0.15", 0.15, Decimal("0.15")], ids=repr)
def test_price_is_exact_however_it_is_written(written: Any) -> None:
    assert spec(price={"input_per_million": written}).price.input_per_million == Decimal("0.15")


def test_cached_tokens_that_are_free_are_not_cached_tokens_without_a_price() -> None:
    assert spec(price={"input_per_million": 1}).price.cached_input_per_million is None
    assert spec(price={"cached_input_per_million": 0}).price.cached_input_per_million == Decimal(0)


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"max_ongoing_requests": 1}, 1.0),
        ({"max_ongoing_requests": 8}, 0.125),
        ({"max_ongoing_requests": 8, "replicas": 4, "max_replicas": 9}, 0.125),
        ({"max_ongoing_requests": 8, "tensor_parallel_size": 4}, 0.5),
        (
            {"max_ongoing_requests": 2, "tensor_parallel_size": 4, "pipeline_parallel_size": 2},
            4.0,
        ),
    ],
    ids=["alone", "one of eight", "replicas", "tensor parallel", "more than one GPU"],
)
def test_request_has_its_place_s_part_of_a_replica_s_gpus(
    fields: dict[str, Any], share: float
) -> None:
    assert spec(**fields).gpu_share == share
