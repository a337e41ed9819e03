"""The catalogue: the models that exist, their sources and their settings.

Does not load or serve models.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]

Amount = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=6)]

_NAMED_ARGUMENTS = {
    "model": "source",
    "served_model_name": "id",
    "dtype": "dtype",
    "max_model_len": "context_tokens",
    "max_num_seqs": "max_ongoing_requests",
    "stream_interval": "stream_interval",
    "quantization": "quantization",
    "revision": "revision",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "tool_call_parser": "tool_call_parser",
    "enable_auto_tool_choice": "tool_call_parser",
    "reasoning_parser": "reasoning_parser",
    "enable_lora": "max_loras",
    "max_loras": "max_loras",
}
"""Arguments of vLLM that have a field here, so that each is set in one place only."""

_REFUSED_ARGUMENTS = {
    "trust_remote_code": "code that comes with a model is never run",
    "trust_request_chat_template": "a client must not choose the chat template",
    "enable_log_requests": "prompts are never logged",
    "enable_log_outputs": "answers are never logged",
    "enable_log_deltas": "answers are never logged",
    "log_error_stack": "an error's text may hold a prompt",
    "allowed_local_media_path": "no request may read a file",
    "allowed_media_domains": "no request may fetch anything",
    "enable_prompt_embeds": "a client's tensors are unpickled",
    "hf_token": "it would be stored in clear; set HF_TOKEN where weights are pulled",
    "fingerprint_mode": "what runs inside is not shown",
    "enable_prompt_tokens_details": "usage is always counted",
}
"""Arguments of vLLM that would break a promise, with the reason."""

CPU_BATCHED_TOKENS = 256
"""Tokens of one step on a CPU. A step cannot be interrupted: with more tokens, it would delay other
streams and occupy the slot of a disconnected client for over half a second on two cores."""

CPU_BLOCK_TOKENS = 32
"""Tokens in a block of KV cache on CPU: 1.04 to 1.11 times as fast as vLLM's 128, and more of a
short prompt is found in the prefix cache. `benchmarks/LOG.md`, 2026-11-24."""

VLLM_NAMES = Path(__file__).with_name("vllm_names.json")
"""Names that vLLM accepts, by field. `models.vllm.names` writes the file, as importing vLLM is
slow."""

_FEW = 10
"""Up to this number of names, an error lists all of them if none is similar."""

_PLUGINS = {
    "tool_call_parser": "tool_parser_plugin",
    "reasoning_parser": "reasoning_parser_plugin",
}
"""Arguments that add names to vLLM's."""

_BUCKETS = ("s3://", "gs://", "abfss://", "azure://")


NO_ACCESS_LOG: Mapping[str, Any] = {"enable_access_log": False}
"""Serve's access log is disabled: it adds nothing to the request log."""

HEALTH_CHECK_PERIOD_S = 2.0
"""Ray replaces a replica after three failed checks: after 6 s, or 30 s with its default period."""

PREFIX_ROUTER = "models.vllm.prefix_router:PrefixRouter"
"""Import path, in Ray's form, of the router that chooses between replicas of an engine."""


class PackagedSource(BaseModel):
    """Weights inside an installed Python package, so that nothing is downloaded.

    `file` is relative to the package: a GGUF file (converted once to bfloat16 safetensors), or a
    directory in Hugging Face's layout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    file: str


class Price(BaseModel):
    """The price of a model in the configured currency, to a millionth of it.

    A request's GPU-seconds are its duration times its share of the engine: the GPUs of a replica
    divided by its maximum number of concurrent requests. A CPU engine counts as one GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_per_million: Amount = Field(Decimal(0), description="Price per million prompt tokens.")
    cached_input_per_million: Amount | None = Field(
        None, description="Per million prompt tokens found in the prefix cache; default: as others."
    )
    output_per_million: Amount = Field(
        Decimal(0), description="Price per million generated tokens."
    )
    per_gpu_second: Amount = Field(Decimal(0), description="Price per GPU-second.")


class Simulation(BaseModel):
    """Step-time model of a simulated engine: `step_base_ms + step_per_sequence_ms * batch`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_base_ms: float = Field(10.0, ge=0)
    step_per_sequence_ms: float = Field(0.5, ge=0)
    prefill_ms_per_token: float = Field(0.05, ge=0)
    max_batch: int = Field(64, ge=1)
    seed: int = 0
    fail_every: int = Field(
        0, ge=0, description="Every n-th request fails during its answer; 0 disables this."
    )


class ModelSpec(BaseModel):
    """One model: identity, source and engine settings.

    `source` is a packaged file, a local path, or a Hugging Face id (with `revision`).
    `engine_kwargs`
    go to vLLM unchanged, except arguments that have a field here or would break a promise. The
    named
    fields exist because several parts read them. Units: `context_tokens` in tokens, `kv_cache_gib`
    in
    GiB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    task: Literal["generate", "embed", "rerank"] = "generate"
    engine: Literal["vllm", "sentence-transformers", "simulated"] = "vllm"
    source: PackagedSource | str | None = None
    revision: str | None = None
    licence: str = "unknown"
    description: str = ""
    context_tokens: int | None = Field(None, ge=16)
    dimension: int | None = Field(
        None, ge=1, description="Dimension of an embedding model's vectors."
    )

    device: Literal["cpu", "gpu"] = "cpu"
    accelerator_type: str | None = Field(
        None, description="Ray's name of the GPU, such as H100 or L4."
    )
    dtype: str = Field(
        "auto", description="vLLM's name. On a CPU, auto is bfloat16 if the CPU supports it."
    )
    quantization: str | None = None
    tensor_parallel_size: int = Field(1, ge=1)
    pipeline_parallel_size: int = Field(1, ge=1)
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description="For CPUs only, as GPU engines size theirs; default: computed at start.",
    )
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    max_loras: int = Field(0, ge=0, description="LoRA adapters in memory at once; 0 disables LoRA.")
    lora_path: str | None = Field(None, description="Location of the adapters (s3://, gs://, ...).")
    engine_kwargs: Mapping[str, Any] = Field(default_factory=dict)
    simulation: Simulation = Simulation()
    price: Price = Price()

    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(
        None, ge=1, description="Enables autoscaling if above `replicas`."
    )
    stream_interval: int = Field(
        1,
        ge=1,
        description="Tokens per streamed delta after the first; more saves CPU time on GPUs. "
        "With a parser it is always 1.",
    )
    max_ongoing_requests: int = Field(32, ge=1, description="Concurrent requests of one replica.")
    max_queued_requests: int = Field(
        64, ge=1, description="Waiting requests; further ones are refused."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if (self.engine == "sentence-transformers") != (self.task in {"embed", "rerank"}):
            msg = "models that embed or rerank run on sentence-transformers, and no others do"
            raise ValueError(msg)
        if self.engine != "simulated" and self.source is None:
            msg = "a model needs a source: a packaged file, a local path or a Hugging Face id"
            raise ValueError(msg)
        if self.device == "cpu" and self.accelerator_type:
            msg = "accelerator_type needs device: gpu"
            raise ValueError(msg)
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            msg = "max_replicas is below replicas"
            raise ValueError(msg)
        if bool(self.max_loras) != (self.lora_path is not None):
            msg = "max_loras and lora_path go together"
            raise ValueError(msg)
        if self.lora_path is not None and not self.lora_path.startswith(_BUCKETS):
            msg = f"lora_path {self.lora_path!r} must begin with one of {', '.join(_BUCKETS)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _known_to_vllm(self) -> ModelSpec:
        for field in ("dtype", "quantization", "tool_call_parser", "reasoning_parser"):
            name = getattr(self, field)
            if name is not None and _PLUGINS.get(field) not in self.engine_kwargs:
                _check_name(field, name)
        for name in self.engine_kwargs:
            _check_name("engine_kwargs", name)
        return self

    @field_validator("engine_kwargs")
    @classmethod
    def _allowed_arguments(cls, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in arguments:
            if field := _NAMED_ARGUMENTS.get(name):
                raise ValueError(f"{name!r} is set by the model's field {field!r}")
            if reason := _REFUSED_ARGUMENTS.get(name):
                raise ValueError(f"{name!r} cannot be set: {reason}")
        return arguments

    @property
    def simulated(self) -> bool:
        """Whether answers are simulated. This is shown wherever the model is."""
        return self.engine == "simulated"

    def parses(self, chat: Mapping[str, Any]) -> bool:
        """Whether a parser of reasoning or of tool calls reads the answer to this chat body."""
        if self.reasoning_parser is not None:
            return True
        wants_calls = bool(chat.get("tools")) and chat.get("tool_choice") != "none"
        return self.tool_call_parser is not None and wants_calls

    @property
    def gpu_share(self) -> float:
        """GPUs that one request occupies: a replica's GPUs over its concurrent requests."""
        gpus = self.tensor_parallel_size * self.pipeline_parallel_size
        return gpus / self.max_ongoing_requests

    @property
    def deployment_name(self) -> str:
        """Name of the Serve deployment that runs this model."""
        part = {"generate": "Engine", "embed": "Embedder", "rerank": "Reranker"}[self.task]
        return f"{part}:{self.id.replace('/', '--').replace('.', '_')}"

    def scaling(self, *, drain_s: float) -> dict[str, Any]:
        """Return a Serve deployment's options: replicas, finite queues, drain time, routing."""
        options: dict[str, Any] = {
            "max_ongoing_requests": self.max_ongoing_requests,
            "max_queued_requests": self.max_queued_requests,
            "graceful_shutdown_timeout_s": drain_s,
            "health_check_period_s": HEALTH_CHECK_PERIOD_S,
            "logging_config": NO_ACCESS_LOG,
        }
        if self.task == "generate" and (self.max_replicas or self.replicas) > 1:
            options["request_router_config"] = {"request_router_class": PREFIX_ROUTER}
        if self.max_replicas is None or self.max_replicas == self.replicas:
            return options | {"num_replicas": self.replicas}
        return options | {
            "autoscaling_config": {
                "min_replicas": self.replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": max(1, self.max_ongoing_requests // 2),
            }
        }


def _check_name(field: str, name: str) -> None:
    """Raise if vLLM does not have the name, and suggest the nearest one."""
    known = _vllm_names()[field]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        if not close and len(known) <= _FEW:
            hint = f"; it has {', '.join(known)}"
        raise ValueError(f"{field}: vLLM has no {name!r}{hint}")


@cache
def _vllm_names() -> Mapping[str, list[str]]:
    names: Mapping[str, list[str]] = json.loads(VLLM_NAMES.read_bytes())
    return names


@cache
def builtin() -> Mapping[str, ModelSpec]:
    """Return the models of `catalog.yaml` by id."""
    rows = yaml.safe_load((Path(__file__).parent / "catalog.yaml").read_text("utf-8"))
    return {row["id"]: ModelSpec.model_validate(row) for row in rows["models"]}
