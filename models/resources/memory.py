"""Divides free CPU memory into KV caches for the engines without a configured size.

The caches share what the server, the weights and other models leave. Each is at most as large as
the contexts of all concurrent requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.catalog import CPU_BATCHED_TOKENS, ModelSpec
from models.resources.architecture import architecture
from models.resources.machine import GIB, FreeMemory
from models.resources.precision import resolved_dtype
from models.resources.weights import weight_bytes

MIB = 1024**2

ENGINE_BYTES = int(1.5 * GIB)
"""Memory of an engine's processes without weights and cache. Together with the server's, this
estimate exceeds the measured 2.4 GiB."""

_GIVEN = 0.9
"""Share of the remaining memory that caches get, because the other needs are estimates."""

_DEFAULT_CONTEXT_TOKENS = 2048
"""vLLM's default for a model that does not declare its context."""


class MemoryTooSmall(Exception):
    """The models do not fit into the free memory; the message has the figures."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Memory that one model's engines need, in bytes per replica.

    Attributes:
        least: Cache of one full context, without which vLLM does not start.
        most: Cache that all requests can use; equal to `least` if the size is configured.
    """

    spec: ModelSpec
    dtype: str
    context_tokens: int
    weights: int
    least: int
    most: int

    @property
    def replicas(self) -> int:
        """Maximum number of replicas."""
        return self.spec.max_replicas or self.spec.replicas

    @property
    def least_bytes(self) -> int:
        """Bytes that all replicas need to start."""
        return (ENGINE_BYTES + self.weights + self.least) * self.replicas


def configured_cache(spec: ModelSpec) -> int | None:
    """Return the configured KV cache of a CPU engine in bytes per worker, or None."""
    if isinstance(given := spec.engine_kwargs.get("kv_cache_memory_bytes"), int):
        return given
    return None if spec.kv_cache_gib is None else int(spec.kv_cache_gib * GIB)


def is_sized(spec: ModelSpec) -> bool:
    """Whether the cache of a CPU engine is configured in any way."""
    return configured_cache(spec) is not None or "gpu_memory_utilization" in spec.engine_kwargs


def engine_memory(spec: ModelSpec, directory: Path, *, bfloat16: bool) -> EngineMemory:
    """Compute the memory of a CPU engine for this model.

    Args:
        spec: the model.
        directory: its files.
        bfloat16: whether the CPU computes in bfloat16.

    Raises:
        PreparationFailed: `config.json` cannot be read, or the weights are damaged.
    """
    dtype = resolved_dtype(spec, directory, bfloat16=bfloat16)
    float_bytes = 4 if dtype in ("float32", "float") else 2
    weights = weight_bytes(directory, float_bytes=float_bytes)
    shape = architecture(directory)
    context = spec.context_tokens or shape.context_tokens or _DEFAULT_CONTEXT_TOKENS
    if (given := configured_cache(spec)) is not None:
        given *= _workers(spec)
        return EngineMemory(spec, dtype, context, weights, given, given)
    one = shape.cache_bytes(
        context,
        step_tokens=_step_tokens(spec),
        value_bytes=_value_bytes(spec, float_bytes),
    )
    # One more than can run concurrently, because prefixes of finished requests remain useful.
    return EngineMemory(spec, dtype, context, weights, one, one * (spec.max_ongoing_requests + 1))


def _step_tokens(spec: ModelSpec) -> int:
    given = spec.engine_kwargs.get("max_num_batched_tokens")
    return given if isinstance(given, int) else CPU_BATCHED_TOKENS


def _value_bytes(spec: ModelSpec, float_bytes: int) -> int:
    kind = str(spec.engine_kwargs.get("kv_cache_dtype", "auto"))
    if kind == "auto":
        return float_bytes
    return 1 if "8" in kind else 2


def _workers(spec: ModelSpec) -> int:
    return spec.tensor_parallel_size * spec.pipeline_parallel_size


def shares(engines: Sequence[EngineMemory], free: FreeMemory, *, reserved: int) -> dict[str, int]:
    """Return the KV cache per worker in bytes, by model id, for engines without a configured size.

    Each gets the cache of one context, and a part of the rest in proportion to what it can use.

    Args:
        engines: all engines of this machine.
        free: the free memory.
        reserved: bytes for everything else.

    Raises:
        MemoryTooSmall: not even one context of each engine fits.
    """
    least = reserved + sum(one.least_bytes for one in engines)
    if least > free.size:
        raise MemoryTooSmall(_too_small(engines, free, reserved))
    wanted = sum((one.most - one.least) * one.replicas for one in engines)
    part = min(1.0, (free.size - least) * _GIVEN / wanted) if wanted else 0.0
    return {
        one.spec.id: _mebibytes((one.least + (one.most - one.least) * part) / _workers(one.spec))
        for one in engines
        if not is_sized(one.spec)
    }


def _mebibytes(size: float) -> int:
    """Round up to whole MiB, so that a cache that just fits still fits."""
    return math.ceil(size / MIB) * MIB


def _too_small(engines: Sequence[EngineMemory], free: FreeMemory, reserved: int) -> str:
    needs = [f"{reserved / GIB:.1f} GiB for the server and smaller models"]
    needs += [
        f"{one.least_bytes / GIB:.1f} GiB for {one.spec.id} ({one.weights / GIB:.1f} GiB of weights"
        f" in {one.dtype}, {one.least / GIB:.1f} GiB of cache for one context of"
        f" {one.context_tokens:,} tokens)"
        for one in engines
    ]
    return (
        f"{free.size / GIB:.1f} GiB of memory are free {free.bound}, and the least that is needed"
        f" is {', '.join(needs)}: lower context_tokens, or serve fewer models"
    )
