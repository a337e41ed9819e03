"""Whether the models of a configuration can run on this machine, and with which memory.

A configuration that joins a Ray cluster runs elsewhere: there each engine looks for itself when it
starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models import prepare
from models.catalog import ModelSpec, builtin
from models.conversion import PreparationFailed
from models.resources.architecture import architecture
from models.resources.machine import GIB, Machine
from models.resources.memory import (
    ENGINE_BYTES,
    MemoryTooSmall,
    configured_cache,
    engine_memory,
    is_sized,
    shares,
)
from models.resources.precision import resolved_dtype
from models.resources.weights import check_weights
from serving.config import Settings

SERVER_BYTES = int(1.5 * GIB)
"""Memory of Ray and one gateway; see `ENGINE_BYTES`."""

SMALL_MODEL_BYTES = GIB
"""Memory of a small model that embeds, ranks or finds personal data."""


class CannotRun(Exception):
    """Models cannot run on this machine. `problems` has one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """The settings with which a model runs on this machine's CPU.

    Attributes:
        model: Its id.
        dtype: What it computes in; `auto` where its weights decide.
        emulated: Whether `dtype` is float32 because the CPU has no bfloat16.
        cache_bytes: KV cache of each worker; None where vLLM was told how to size it.
    """

    model: str
    dtype: str
    emulated: bool
    cache_bytes: int | None

    def __str__(self) -> str:
        """Return the sentence that the operator reads at the start."""
        return f"{self.model}: {self.how}"

    @property
    def how(self) -> str:
        """The type and the cache, as a phrase."""
        dtype = "the type of its weights" if self.dtype == "auto" else self.dtype
        why = " (this CPU has no bfloat16)" if self.emulated else ""
        cache = self.cache_bytes and f"; {self.cache_bytes / GIB:.2f} GiB of KV cache"
        return f"computes in {dtype}{why}{cache or ''}"


def check_files(settings: Settings, machine: Machine) -> None:
    """Check that every model's files and every GPU are present. Quick.

    Raises:
        CannotRun: something is missing or damaged.
    """
    if settings.ray.address is not None:
        return
    problems = _problems_of(settings, _check_files)
    if machine.gpus < (needed := needed_gpus(settings)):
        problems.append(
            f"device: gpu: GPUs needed: {needed}; this machine has {machine.gpus or 'none'}"
        )
    if problems:
        raise CannotRun(problems)


def check_contexts(settings: Settings) -> None:
    """See that no model is given more context than it has. Imports transformers for own models.

    Raises:
        CannotRun: one is, or its `config.json` cannot be read.
    """
    if settings.ray.address is None and (problems := _problems_of(settings, _check_context)):
        raise CannotRun(problems)


def needed_gpus(settings: Settings) -> int:
    """GPUs of all replicas that start."""
    return sum(
        spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.replicas
        for spec in settings.models
        if spec.device == "gpu"
    )


def local_engines(settings: Settings, machine: Machine) -> list[LocalEngine]:
    """Work out how each vLLM engine runs on this CPU. Imports transformers to size a cache.

    Models whose files are missing, or have yet to be converted, are left out.

    Args:
        settings: of all models.
        machine: this one.

    Raises:
        CannotRun: the models do not fit, or the files of one cannot be read.
    """
    if settings.ray.address is not None:
        return []
    found = list(_cpu_engines(settings))
    try:
        caches = _caches(found, machine, reserved=_reserved(settings))
    except (PreparationFailed, MemoryTooSmall) as error:
        raise CannotRun([str(error)]) from None
    return [_local_engine(*engine, machine, caches) for engine in found]


def estimated_bytes(settings: Settings, engines: Sequence[LocalEngine]) -> int:
    """About what everything takes on this machine, besides weights."""
    caches = sum(ENGINE_BYTES + (engine.cache_bytes or 0) for engine in engines)
    return _reserved(settings) + caches


def _local_engine(
    spec: ModelSpec, directory: Path, machine: Machine, caches: Mapping[str, int]
) -> LocalEngine:
    dtype = resolved_dtype(spec, directory, bfloat16=machine.bfloat16)
    emulated = spec.dtype == "auto" and dtype == "float32"
    return LocalEngine(spec.id, dtype, emulated, caches.get(spec.id, configured_cache(spec)))


def _caches(
    engines: Sequence[tuple[ModelSpec, Path]], machine: Machine, *, reserved: int
) -> dict[str, int]:
    """Cache of each engine that was given none, by model id.

    Raises:
        MemoryTooSmall: a cache that was given is more than is free, or another does not fit.
        PreparationFailed: a model's files cannot be read.
    """
    free = machine.memory
    for spec, _ in engines:
        if (given := configured_cache(spec) or 0) > free.size:
            raise MemoryTooSmall(
                f"{spec.id}: {given / GIB:.1f} GiB of KV cache are more than the"
                f" {free.size / GIB:.1f} GiB of memory that are free {free.bound}"
            )
    if all(is_sized(spec) for spec, _ in engines):
        return {}
    needs = [engine_memory(*engine, bfloat16=machine.bfloat16) for engine in engines]
    return shares(needs, free, reserved=reserved)


def _cpu_engines(settings: Settings) -> Iterator[tuple[ModelSpec, Path]]:
    """The models that vLLM runs on the CPU and that can be loaded, with their directories."""
    for spec in settings.models:
        if spec.engine == "vllm" and spec.device == "cpu":
            with suppress(PreparationFailed):
                if directory := prepare.located(spec, settings.home):
                    yield spec, directory


def _reserved(settings: Settings) -> int:
    """Return the memory that everything but the engines needs."""
    small = sum(
        spec.max_replicas or spec.replicas
        for spec in settings.models
        if spec.engine == "sentence-transformers" and spec.device == "cpu"
    )
    if settings.overflow.providers:
        small += settings.privacy.detector_replicas
    return SERVER_BYTES + small * SMALL_MODEL_BYTES


def _problems_of(settings: Settings, check: Callable[[ModelSpec, Path], None]) -> list[str]:
    problems = []
    for spec in settings.models:
        try:
            if spec.source and (directory := prepare.located(spec, settings.home)):
                check(spec, directory)
        except PreparationFailed as error:
            problems.append(f"{spec.id}: {error}")
    return problems


def _check_files(_: ModelSpec, directory: Path) -> None:
    check_weights(directory)


def _check_context(spec: ModelSpec, directory: Path) -> None:
    """Refuse a context that vLLM would refuse. The catalogue's contexts are known to be right."""
    known = builtin().get(spec.id)
    if (
        spec.engine != "vllm"
        or spec.context_tokens is None
        or "hf_overrides" in spec.engine_kwargs
        or (known and known.context_tokens == spec.context_tokens)
    ):
        return
    longest = architecture(directory).context_tokens
    if longest is not None and spec.context_tokens > longest:
        raise PreparationFailed(
            f"context_tokens: {spec.context_tokens:,} are more than the {longest:,} that the model"
            f" has by {directory / 'config.json'}"
        )
