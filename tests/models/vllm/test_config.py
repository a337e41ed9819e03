from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from models.catalog import ModelSpec, builtin
from models.resources.machine import this_machine
from tests.tiny_model import make_tiny

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig

ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
SMOLLM2 = builtin()["smollm2-135m-instruct"]
DIRECTORY = Path("/models/m")

LLAMA = ModelSpec(
    id="llama-3.3-70b",
    source="meta-llama/Llama-3.3-70B-Instruct",
    revision="6f6073b423013f6a7d4d9f39144961bfbfbc386b",
    device="gpu",
    accelerator_type="H100",
    tensor_parallel_size=4,
    pipeline_parallel_size=2,
    quantization="fp8",
    context_tokens=32768,
    tool_call_parser="llama3_json",
    reasoning_parser="deepseek_r1",
    max_loras=4,
    lora_path="s3://adapters/llama",
    engine_kwargs={"gpu_memory_utilization": 0.92, "max_lora_rank": 32},
    replicas=1,
    max_replicas=3,
    max_ongoing_requests=128,
    max_queued_requests=256,
)


def generated(spec: ModelSpec, source: str | Path = DIRECTORY) -> LLMConfig:
    """Ray's configuration of a model. Importing vLLM takes ten seconds, so only tests do."""
    from models.vllm.config import llm_config

    return llm_config(spec, source, environment=ENVIRONMENT, drain_s=30)


def gpu(**fields: Any) -> ModelSpec:
    return ModelSpec(id="m", source="org/m", device="gpu", **fields)


def known_arguments() -> set[str]:
    """The names that Ray accepts: it splits them over these two classes and refuses the rest."""
    import dataclasses

    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    return {f.name for cls in (AsyncEngineArgs, FrontendArgs) for f in dataclasses.fields(cls)}


def test_cpu_model_is_configured_in_full() -> None:
    from models.vllm.config import WeightsInPlace

    config = generated(SMOLLM2)
    assert config.model_dump(exclude_unset=True, exclude={"callback_config"}) == {
        "model_loading_config": {
            "model_id": "smollm2-135m-instruct",
            "model_source": "/models/m",
        },
        "accelerator_config": {"kind": "cpu"},
        "engine_kwargs": {
            "dtype": "auto",
            "kv_cache_memory_bytes": 1024**3,
            "max_model_len": 2048,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "tool_call_parser": "hermes",
            "max_num_seqs": 32,
            "enable_auto_tool_choice": True,
            "enforce_eager": True,
            "max_num_batched_tokens": 256,
            "block_size": 32,
            "enable_prompt_tokens_details": True,
            "enable_log_requests": False,
            "fingerprint_mode": "none",
            "trust_remote_code": False,
        },
        "deployment_config": {
            "num_replicas": 1,
            "max_ongoing_requests": 32,
            "max_queued_requests": 64,
            "graceful_shutdown_timeout_s": 30,
            "health_check_period_s": 2.0,
            "logging_config": {"enable_access_log": False},
        },
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "runtime_env": {
            "env_vars": {
                "HF_HUB_OFFLINE": "1",
                "TORCHDYNAMO_DISABLE": "1",
                "VLLM_LOGGING_STREAM": "ext://sys.__stdout__",
            }
        },
        "log_engine_metrics": True,
    }
    assert config.callback_config.callback_class is WeightsInPlace
    assert config.accelerator_type is None


def test_gpu_model_is_configured_in_full() -> None:
    config = generated(LLAMA, str(LLAMA.source))
    assert config.model_dump(exclude_unset=True) == {
        "model_loading_config": {
            "model_id": "llama-3.3-70b",
            "model_source": "meta-llama/Llama-3.3-70B-Instruct",
        },
        "accelerator_type": "H100",
        "accelerator_config": {"kind": "gpu"},
        "engine_kwargs": {
            "dtype": "auto",
            "max_model_len": 32768,
            "quantization": "fp8",
            "revision": "6f6073b423013f6a7d4d9f39144961bfbfbc386b",
            "tensor_parallel_size": 4,
            "pipeline_parallel_size": 2,
            "tool_call_parser": "llama3_json",
            "reasoning_parser": "deepseek_r1",
            "max_num_seqs": 128,
            "enable_auto_tool_choice": True,
            "enable_lora": True,
            "max_loras": 4,
            "gpu_memory_utilization": 0.92,
            "max_lora_rank": 32,
            "enable_prompt_tokens_details": True,
            "enable_log_requests": False,
            "fingerprint_mode": "none",
            "trust_remote_code": False,
        },
        "lora_config": {
            "dynamic_lora_loading_path": "s3://adapters/llama",
            "max_num_adapters_per_replica": 4,
        },
        "deployment_config": {
            "autoscaling_config": {
                "min_replicas": 1,
                "max_replicas": 3,
                "target_ongoing_requests": 64,
            },
            "request_router_config": {
                "request_router_class": "models.vllm.prefix_router:PrefixRouter"
            },
            "max_ongoing_requests": 128,
            "max_queued_requests": 256,
            "graceful_shutdown_timeout_s": 30,
            "health_check_period_s": 2.0,
            "logging_config": {"enable_access_log": False},
        },
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "runtime_env": {"env_vars": {"HF_HUB_OFFLINE": "1"}},
        "log_engine_metrics": True,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("async_scheduling", False),
        ("max_num_batched_tokens", 8192),
        ("block_size", 64),
        ("enable_chunked_prefill", True),
        ("kv_cache_dtype", "fp8"),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 4}),
    ],
)
def test_arguments_for_speed_reach_vllm_as_they_are(name: str, value: Any) -> None:
    config = generated(gpu(engine_kwargs={name: value}))
    assert config.get_engine_config().get_initialization_kwargs()[name] == value


def test_vllm_schedules_ahead_on_gpus_unless_told_otherwise() -> None:
    """Ray gives a GPU model vLLM's Ray executor, of which the second version can."""
    from vllm import envs
    from vllm.v1.executor.ray_executor_v2 import RayExecutorV2

    kwargs = generated(gpu()).get_engine_config().get_initialization_kwargs()
    assert kwargs["distributed_executor_backend"] == "ray"
    assert "async_scheduling" not in kwargs
    assert envs.VLLM_USE_RAY_V2_EXECUTOR_BACKEND
    assert RayExecutorV2.supports_async_scheduling()


def test_kv_cache_size_of_a_gpu_is_left_to_vllm() -> None:
    assert "kv_cache_memory_bytes" not in generated(gpu(kv_cache_gib=4)).engine_kwargs


def test_model_without_a_tool_parser_offers_no_automatic_tools() -> None:
    kwargs = generated(gpu()).engine_kwargs
    assert kwargs["enable_auto_tool_choice"] is False
    assert "tool_call_parser" not in kwargs


@pytest.mark.parametrize("spec", [SMOLLM2, LLAMA], ids=["cpu", "gpu"])
def test_every_generated_argument_is_one_of_vllms(spec: ModelSpec) -> None:
    assert set(generated(spec).engine_kwargs) - known_arguments() == set()


@pytest.mark.parametrize("spec", [SMOLLM2, LLAMA], ids=["cpu", "gpu"])
def test_ray_splits_the_arguments_without_losing_one(spec: ModelSpec) -> None:
    config = generated(spec)
    split = config.get_engine_config()
    assert split.engine_kwargs | split.frontend_kwargs == config.engine_kwargs
    assert set(split.frontend_kwargs) == {
        *("enable_auto_tool_choice", "tool_call_parser"),
        *("enable_prompt_tokens_details", "fingerprint_mode"),
    }


def test_vllm_gets_the_source_as_model_under_our_name() -> None:
    split = generated(LLAMA, str(LLAMA.source)).get_engine_config()
    arguments = split.get_initialization_kwargs()
    assert arguments["model"] == "meta-llama/Llama-3.3-70B-Instruct"
    assert arguments["served_model_name"] == ["llama-3.3-70b"]
    assert arguments["distributed_executor_backend"] == "ray"


def test_each_card_of_a_parallel_model_is_a_bundle() -> None:
    spec = gpu(tensor_parallel_size=4, accelerator_type="H100")
    bundles = generated(spec).get_engine_config().placement_bundles
    assert bundles == [{"GPU": 1, "accelerator_type:H100": 0.001}] * 4


def test_pipeline_stages_multiply_the_cards() -> None:
    spec = gpu(tensor_parallel_size=4, pipeline_parallel_size=2)
    assert generated(spec).get_engine_config().placement_bundles == [{"GPU": 1}] * 8


def test_cpu_model_asks_for_no_card() -> None:
    assert generated(SMOLLM2).get_engine_config().placement_bundles == [{"CPU": 1}]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"dtype": "fp16"},
            "vLLM has no 'fp16'; it has auto, bfloat16, float, float16, float32, half",
        ),
        ({"dtype": "bloat16"}, "dtype: vLLM has no 'bloat16'; did you mean 'bfloat16'?"),
        ({"quantization": "gtpq"}, "quantization: vLLM has no 'gtpq'; did you mean 'gptq'?"),
        ({"tool_call_parser": "hermess"}, "vLLM has no 'hermess'; did you mean 'hermes'?"),
        ({"reasoning_parser": "qwen-3"}, "vLLM has no 'qwen-3'; did you mean 'qwen3'?"),
        ({"reasoning_parser": "zzz"}, "reasoning_parser: vLLM has no 'zzz'"),
        (
            {"engine_kwargs": {"gpu_memory_utilisation": 0.9}},
            "vLLM has no 'gpu_memory_utilisation'; did you mean 'gpu_memory_utilization'?",
        ),
    ],
)
def test_name_that_vllm_does_not_have_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        gpu(**fields)
    assert caught.value.errors()[0]["msg"].endswith(problem)


def test_parser_of_a_plugin_is_not_known_beforehand() -> None:
    plugin = {"tool_parser_plugin": "/plugins/ours.py"}
    assert gpu(tool_call_parser="ours", engine_kwargs=plugin).tool_call_parser == "ours"


def test_names_are_those_of_the_installed_vllm() -> None:
    import json

    from models.catalog import VLLM_NAMES
    from models.vllm.names import installed_names

    assert json.loads(VLLM_NAMES.read_bytes()) == installed_names(), "run `make vllm-names`"


def test_unknown_accelerator_is_refused() -> None:
    with pytest.raises(ValidationError, match="Unsupported accelerator type: H1000"):
        generated(gpu(accelerator_type="H1000"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("trust_remote_code", True, "code that comes with a model is never run"),
        ("trust_remote_code", False, "code that comes with a model is never run"),
        ("trust_request_chat_template", True, "a client must not choose the chat template"),
        ("enable_log_requests", True, "prompts are never logged"),
        ("enable_log_outputs", True, "answers are never logged"),
        ("enable_log_deltas", True, "answers are never logged"),
        ("log_error_stack", True, "an error's text may hold a prompt"),
        ("allowed_local_media_path", "/", "no request may read a file"),
        ("allowed_media_domains", ["a"], "no request may fetch anything"),
        ("enable_prompt_embeds", True, "a client's tensors are unpickled"),
        ("hf_token", "hf_1", "it would be stored in clear"),
        ("fingerprint_mode", "full", "what runs inside is not shown"),
        ("enable_prompt_tokens_details", False, "usage is always counted"),
    ],
)
def test_argument_that_breaks_a_promise_is_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' cannot be set: {reason}"):
        gpu(engine_kwargs={name: value})


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("model", "source"),
        ("served_model_name", "id"),
        ("max_model_len", "context_tokens"),
        ("max_num_seqs", "max_ongoing_requests"),
        ("enable_lora", "max_loras"),
        ("quantization", "quantization"),
    ],
)
def test_argument_that_has_a_field_is_set_there(name: str, field: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is set by the model's field '{field}'"):
        gpu(engine_kwargs={name: "x"})


def test_names_that_are_refused_are_vllms() -> None:
    from models import catalog

    guarded = catalog._NAMED_ARGUMENTS.keys() | catalog._REFUSED_ARGUMENTS.keys()
    assert guarded - known_arguments() == set()
    assert set(catalog._NAMED_ARGUMENTS.values()) <= set(ModelSpec.model_fields)


def test_promises_hold_for_a_specification_that_was_not_validated() -> None:
    spec = gpu().model_copy(
        update={"engine_kwargs": {"trust_remote_code": True, "enable_log_requests": True}}
    )
    kwargs = generated(spec).engine_kwargs
    assert kwargs["trust_remote_code"] is False
    assert kwargs["enable_log_requests"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_loras": 2}, "max_loras and lora_path go together"),
        ({"lora_path": "s3://a"}, "max_loras and lora_path go together"),
        ({"max_loras": 2, "lora_path": "/adapters"}, "'/adapters' must begin with one of s3://"),
    ],
)
def test_adapters_need_a_number_and_a_bucket(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        gpu(**fields)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def test_engine_takes_from_its_node_what_its_model_can_use(tiny: Path) -> None:
    from models.vllm.config import node_arguments

    dtype, width = ("bfloat16", 2) if this_machine().bfloat16 else ("float32", 4)
    context = 2048 * 2 * (2 * 2 * 64) * width
    spec = ModelSpec(id="tiny", source=str(tiny), max_ongoing_requests=3)
    assert node_arguments(spec, tiny) == {"dtype": dtype, "kv_cache_memory_bytes": 4 * context}


@pytest.mark.parametrize(
    "fields", [{"kv_cache_gib": 0.5}, {"engine_kwargs": {"gpu_memory_utilization": 0.5}}]
)
def test_engine_whose_memory_is_configured_takes_its_type_only(
    tiny: Path, fields: dict[str, Any]
) -> None:
    from models.vllm.config import node_arguments

    spec = ModelSpec(id="tiny", source=str(tiny), dtype="float32", **fields)
    assert node_arguments(spec, tiny) == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"kv_cache_gib": 0.5}, 2**29),
        ({"engine_kwargs": {"kv_cache_memory_bytes": 2**20}}, 2**20),
        ({}, None),
    ],
)
def test_configured_cache_reaches_vllm_in_bytes(fields: dict[str, Any], size: int | None) -> None:
    kwargs = generated(ModelSpec(id="m", source="org/m", **fields)).engine_kwargs
    assert kwargs.get("kv_cache_memory_bytes") == size


def test_model_on_two_cores_computes_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

    from models.vllm import engine as vllm_engine

    cores = [get_allowed_cpu_list()[0]] * 2
    monkeypatch.setattr(vllm_engine, "get_allowed_cpu_list", lambda: cores)
    assert vllm_engine._one_thread(generated(SMOLLM2))
    parallel = SMOLLM2.model_copy(update={"tensor_parallel_size": 2})
    assert not vllm_engine._one_thread(generated(parallel))
    assert not vllm_engine._one_thread(generated(gpu()))


def test_model_on_more_cores_keeps_the_worker_that_vllm_binds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.utils.cpu_resource_utils import LogicalCPUInfo

    from models.vllm import engine as vllm_engine

    cores = [LogicalCPUInfo(id=n, physical_core=n, numa_node=0) for n in range(4)]
    monkeypatch.setattr(vllm_engine, "get_allowed_cpu_list", lambda: cores)
    assert not vllm_engine._one_thread(generated(SMOLLM2))


def test_one_process_is_what_ray_gives_vllm_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.llm._internal.serve.engines.vllm import vllm_models

    from models.vllm.compat import run_in_one_process

    monkeypatch.setattr(vllm_models, "EXECUTOR_BACKEND_MP", "mp")
    monkeypatch.setattr(os, "environ", {})
    run_in_one_process()
    kwargs = generated(SMOLLM2).get_engine_config().get_initialization_kwargs()
    assert kwargs["distributed_executor_backend"] == "uni"
    assert os.environ == {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
    }
