"""A catalogue entry as the configuration of Ray and vLLM, in which no promise can be undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.serve.llm import LLMConfig

from models.catalog import CPU_BATCHED_TOKENS, CPU_BLOCK_TOKENS, ModelSpec
from models.prepare import prepare
from models.resources.machine import this_machine
from models.resources.memory import configured_cache, engine_memory, is_sized, shares
from models.resources.precision import resolved_dtype
from models.vllm.deployment import variables

_FIXED_ARGUMENTS = {
    "enable_prompt_tokens_details": True,
    "enable_log_requests": False,
    "fingerprint_mode": "none",
    "trust_remote_code": False,
}


def llm_config(
    spec: ModelSpec, source: str | Path, *, environment: dict[str, str], drain_s: float
) -> LLMConfig:
    """Ray's configuration of one model.

    Args:
        spec: the catalogue entry.
        source: prepared directory or Hugging Face id.
        environment: variables for the engine's processes.
        drain_s: for streams to end when a replica is stopped.
    """
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": spec.id, "model_source": str(source)},
        "engine_kwargs": _engine_kwargs(spec),
        "deployment_config": spec.scaling(drain_s=drain_s),
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "runtime_env": {"env_vars": variables(spec, environment)},
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


def node_arguments(spec: ModelSpec, source: str | Path) -> dict[str, Any]:
    """Arguments of a CPU engine that depend on its node: the processor and the free memory.

    Where the node's memory was not shared out beforehand, the engine takes what it can use.

    Args:
        spec: the catalogue entry.
        source: as for `llm_config`.

    Raises:
        PreparationFailed: the model is not on this node, or damaged.
        MemoryTooSmall: it does not fit.
    """
    directory = source if isinstance(source, Path) else prepare(spec, Path())
    machine = this_machine()
    dtype = resolved_dtype(spec, directory, bfloat16=machine.bfloat16)
    if is_sized(spec):
        return {"dtype": dtype}
    memory = engine_memory(spec, directory, bfloat16=machine.bfloat16)
    caches = shares([memory], machine.memory, reserved=0)
    return {"dtype": dtype, "kv_cache_memory_bytes": caches[spec.id]}


class WeightsInPlace(CallbackBase):
    """Tells Ray that weights are prepared: no download task, and no idle 640 MB worker for it."""

    async def on_before_node_init(self) -> None:
        """Skip Ray's node initialisation."""
        self.ctx.run_init_node = False


def _engine_kwargs(spec: ModelSpec) -> dict[str, Any]:
    """Arguments of vLLM. What keeps a promise comes last, so nothing given can undo it."""
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
        kwargs["block_size"] = CPU_BLOCK_TOKENS
        kwargs["enforce_eager"] = True  # Compiled mode gave wrong text on CPU; see ARCHITECTURE.
        if (cache := configured_cache(spec)) is not None:
            kwargs["kv_cache_memory_bytes"] = cache
    if spec.max_loras:
        kwargs |= {"enable_lora": True, "max_loras": spec.max_loras}
    return kwargs | dict(spec.engine_kwargs) | _FIXED_ARGUMENTS
