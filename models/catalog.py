"""The catalogue: which models exist, where they come from and how they are run.

Knows nothing of loading or serving them.
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
"""Arguments of vLLM's that have a field of their own: one thing is said in one place."""

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
"""Arguments of vLLM's that would break a promise, and which."""

CPU_BATCHED_TOKENS = 256
"""Tokens of one step on CPU. A step cannot be interrupted: more would hold up other streams, and a
slot whose client is gone, for longer than half a second on two cores."""

VLLM_NAMES = Path(__file__).with_name("vllm_names.json")
"""What vLLM has, by our field: written by `models.vllm.names`, as importing vLLM takes long."""

_FEW = 10
"""So many names are told in full where none is near."""

_PLUGINS = {
    "tool_call_parser": "tool_parser_plugin",
    "reasoning_parser": "reasoning_parser_plugin",
}
"""Arguments that add names to vLLM's."""

_BUCKETS = ("s3://", "gs://", "abfss://", "azure://")


NO_ACCESS_LOG: Mapping[str, Any] = {"enable_access_log": False}
"""Of a Serve deployment: Ray's line for each call says nothing that the request log does not."""

HEALTH_CHECK_PERIOD_S = 2.0
"""Ray replaces a replica after three failed checks: at its default of 10 s, half a minute late."""

PREFIX_ROUTER = "models.vllm.prefix_router:PrefixRouter"
"""Import path, as Ray takes it, of what chooses among several replicas of an engine."""


class PackagedSource(BaseModel):
    """Weights that come inside an installed Python package, so nothing is downloaded.

    `file` is relative to the package: a GGUF file (converted once to bfloat16 safetensors) or a
    directory in Hugging Face's layout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    file: str


class Price(BaseModel):
    """What a model costs, in the currency of the configuration. Exact to a millionth of it.

    GPU-seconds of a request are its share of its engine: the GPUs of a replica, over the requests
    that run in it at once at most, for as long as the request ran. One CPU engine counts as a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_per_million: Amount = Field(Decimal(0), description="Per million prompt tokens.")
    cached_input_per_million: Amount | None = Field(
        None, description="Of prompt tokens found in the prefix cache; default: as the others."
    )
    output_per_million: Amount = Field(Decimal(0), description="Per million generated tokens.")
    per_gpu_second: Amount = Field(Decimal(0), description="Per GPU and second.")


class Simulation(BaseModel):
    """Step-time model of a simulated engine: `step_base_ms + step_per_sequence_ms * batch`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_base_ms: float = Field(10.0, ge=0)
    step_per_sequence_ms: float = Field(0.5, ge=0)
    prefill_ms_per_token: float = Field(0.05, ge=0)
    max_batch: int = Field(64, ge=1)
    seed: int = 0
    fail_every: int = Field(0, ge=0, description="Every n-th request fails mid-answer; 0: none.")


class ModelSpec(BaseModel):
    """One model: identity, source and the engine settings that its weights ask for.

    `source` is a packaged file, a local path, or a Hugging Face id (with `revision`). Everything
    under `engine_kwargs` goes to vLLM as it is, but for what has a field here or would break a
    promise; the named fields exist because several parts read them. Quantities: `context_tokens`
    in tokens, `kv_cache_gib` in GiB.
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
    dimension: int | None = Field(None, ge=1, description="Of an embedding model's vectors.")

    device: Literal["cpu", "gpu"] = "cpu"
    accelerator_type: str | None = Field(None, description="Ray's name, such as H100 or L4.")
    dtype: str = Field(
        "auto", description="As vLLM names it; auto on CPU: bfloat16 where the CPU computes in it."
    )
    quantization: str | None = None
    tensor_parallel_size: int = Field(1, ge=1)
    pipeline_parallel_size: int = Field(1, ge=1)
    kv_cache_gib: float | None = Field(
        None, gt=0, description="CPU only, GPUs size their own; default: worked out at the start."
    )
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    max_loras: int = Field(0, ge=0, description="LoRA adapters held at once; 0: LoRA off.")
    lora_path: str | None = Field(None, description="Where adapters are found (s3://, gs://, ...).")
    engine_kwargs: Mapping[str, Any] = Field(default_factory=dict)
    simulation: Simulation = Simulation()
    price: Price = Price()

    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1, description="Above `replicas`: autoscaling.")
    stream_interval: int = Field(
        1,
        ge=1,
        description="Tokens in a streamed delta after the first; more spares CPU on GPUs. "
        "Where a parser reads the answer it is 1.",
    )
    max_ongoing_requests: int = Field(32, ge=1, description="Running in one replica at once.")
    max_queued_requests: int = Field(64, ge=1, description="Waiting; more are refused.")

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
        """Whether answers are made up. Shown wherever the model is."""
        return self.engine == "simulated"

    def parses(self, chat: Mapping[str, Any]) -> bool:
        """Whether a parser of reasoning or of tool calls reads the answer to that chat's body."""
        if self.reasoning_parser is not None:
            return True
        wants_calls = bool(chat.get("tools")) and chat.get("tool_choice") != "none"
        return self.tool_call_parser is not None and wants_calls

    @property
    def gpu_share(self) -> float:
        """GPUs that one request occupies: those of a replica over its places."""
        gpus = self.tensor_parallel_size * self.pipeline_parallel_size
        return gpus / self.max_ongoing_requests

    @property
    def deployment_name(self) -> str:
        """Name of the Serve deployment that runs this model."""
        part = {"generate": "Engine", "embed": "Embedder", "rerank": "Reranker"}[self.task]
        return f"{part}:{self.id.replace('/', '--').replace('.', '_')}"

    def scaling(self, *, drain_s: float) -> dict[str, Any]:
        """Options of a Serve deployment: replicas, finite queues, time to drain, routing."""
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
    """Refuse what vLLM does not have, with the nearest that it has."""
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
    """The models of `catalog.yaml`, by id."""
    rows = yaml.safe_load((Path(__file__).parent / "catalog.yaml").read_text("utf-8"))
    return {row["id"]: ModelSpec.model_validate(row) for row in rows["models"]}
