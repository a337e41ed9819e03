"""A catalogue entry as the configuration of Ray and vLLM, in which no promise can be undone."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.serve.llm import LLMConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs

from models.catalog import ModelSpec

CPU_BATCHED_TOKENS = 256
"""Tokens of one step. A step cannot be interrupted: more would hold up other streams, and a slot
whose client is gone, for longer than half a second on two cores."""

_FIXED_ARGUMENTS = {
    "enable_prompt_tokens_details": True,
    "enable_log_requests": False,
    "fingerprint_mode": "none",
    "trust_remote_code": False,
}


class UnknownArgument(ValueError):
    """`engine_kwargs` names an argument that this version of vLLM does not have."""


def llm_config(
    spec: ModelSpec, source: str | Path, *, environment: dict[str, str], drain_s: float
) -> LLMConfig:
    """Ray's configuration of one model.

    Args:
        spec: the catalogue entry.
        source: prepared directory or Hugging Face id.
        environment: variables for the engine's processes.
        drain_s: for streams to end when a replica is stopped.

    Raises:
        UnknownArgument: in `engine_kwargs`.
    """
    env = dict(environment)
    if spec.device == "cpu":
        # Else the first request for logprobs compiles C++ for 15 s, in which no token comes out.
        env["TORCHDYNAMO_DISABLE"] = "1"
        if spec.kv_cache_gib is not None:
            env["VLLM_CPU_KVCACHE_SPACE"] = str(spec.kv_cache_gib)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": spec.id, "model_source": str(source)},
        "engine_kwargs": _engine_kwargs(spec),
        "deployment_config": spec.scaling(drain_s=drain_s),
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "runtime_env": {"env_vars": env},
        "log_engine_metrics": True,
    }
    if spec.device == "cpu":
        config["accelerator_config"] = {"kind": "cpu"}
    elif spec.accelerator_type:
        config["accelerator_type"] = spec.accelerator_type
    if isinstance(source, Path):
        config["callback_config"] = {"callback_class": WeightsInPlace}
    if spec.max_loras:
        config["lora_config"] = {
            "dynamic_lora_loading_path": spec.lora_path,
            "max_num_adapters_per_replica": spec.max_loras,
        }
    return LLMConfig(**config)


class WeightsInPlace(CallbackBase):
    """Tells Ray that weights are prepared: no download task, and no idle 640 MB worker for it."""

    async def on_before_node_init(self) -> None:
        """Skip Ray's node initialisation."""
        self.ctx.run_init_node = False


def _engine_kwargs(spec: ModelSpec) -> dict[str, Any]:
    """Arguments of vLLM. What keeps a promise comes last, so nothing given can undo it."""
    _check_arguments(spec)
    kwargs: dict[str, Any] = {
        "dtype": spec.dtype,
        "max_model_len": spec.context_tokens,
        "quantization": spec.quantization,
        "revision": spec.revision,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "pipeline_parallel_size": spec.pipeline_parallel_size,
        "tool_call_parser": spec.tool_call_parser,
        "reasoning_parser": spec.reasoning_parser,
    }
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    kwargs |= {
        "max_num_seqs": spec.max_ongoing_requests,
        "enable_auto_tool_choice": spec.tool_call_parser is not None,
    }
    if spec.device == "cpu":
        kwargs["max_num_batched_tokens"] = CPU_BATCHED_TOKENS
        kwargs["enforce_eager"] = True  # Compiled mode gave wrong text on CPU; see ARCHITECTURE.
    if spec.max_loras:
        kwargs |= {"enable_lora": True, "max_loras": spec.max_loras}
    return kwargs | dict(spec.engine_kwargs) | _FIXED_ARGUMENTS


def _check_arguments(spec: ModelSpec) -> None:
    known = {
        field.name
        for arguments in (AsyncEngineArgs, FrontendArgs)
        for field in dataclasses.fields(arguments)
        if not field.name.startswith("_")
    }
    for name in spec.engine_kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UnknownArgument(f"{spec.id}: vLLM has no engine argument {name!r}{hint}")
