"""The servers under comparison, as data: how each is started, and their common settings.

Starts nothing itself. Each server listens on loopback only.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.running.parts import RINGFENCE, parts_of, write_configuration
from benchmarks.running.ports import free_port

HOST = "127.0.0.1"
MODEL = "smollm2-135m-instruct"
API_KEY = "sk-ringfence-benchmark"
SERVE = (sys.executable, "-m", "serving.cli", "serve")

# Arguments of every arm's engine, by vLLM's names; the others are vLLM's defaults. Ringfence has
# the same values in its catalogue, except the type, which would be its own choice.
ENGINE_ARGUMENTS: Mapping[str, str | int | bool] = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 256,
    "block_size": 32,
}
MOST_CORES_OF_ONE_PROCESS = 2
SHARED_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "auto",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A server to measure.

    Attributes:
        name: Name in `--arms` and in results.
        command: Argument vector, run in the current directory.
        port: Port on loopback.
        ready_path: Path that returns 200 once requests are served.
        model: Model name for requests.
        environment: Variables added to `SHARED_ENVIRONMENT`, which is added to ours.
        writes_model_dir: Whether its first start creates the weights that other arms read.
        engine_title: Part of the title of the server's process that acts as the upstream; empty
            if a separate server is the upstream.
    """

    name: str
    command: tuple[str, ...]
    port: int
    ready_path: str
    model: str = MODEL
    environment: Mapping[str, str] = field(default_factory=dict)
    writes_model_dir: bool = False
    engine_title: str = ""


def bare_vllm(model_dir: Path) -> Arm:
    """Build vLLM's own OpenAI server, with its engine in as many processes as Ringfence's.

    On two cores that is one process: these are the settings of `models/vllm/engine.py`.
    """
    if (psutil.cpu_count(logical=False) or 1) > MOST_CORES_OF_ONE_PROCESS:
        return _vllm(model_dir, "bare-vllm")
    return _vllm(
        model_dir,
        "bare-vllm",
        "--distributed-executor-backend",
        "uni",
        environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"},
    )


def bare_vllm_mp(model_dir: Path) -> Arm:
    """Build vLLM's own OpenAI server, with the two processes that vLLM chooses on CPU."""
    return _vllm(model_dir, "bare-vllm-mp")


def _vllm(
    model_dir: Path, name: str, *more: str, environment: Mapping[str, str] | None = None
) -> Arm:
    # The installed `vllm` script lacks metadata; its module works.
    port = free_port()
    flags = ["--host", HOST, "--port", str(port)]
    flags += ["--model", str(model_dir), "--served-model-name", MODEL, *more]
    for option, value in ENGINE_ARGUMENTS.items():
        flags.append("--" + option.replace("_", "-"))
        if value is not True:
            flags.append(str(value))
    module = "vllm.entrypoints.launchers.api_server.entry"
    return Arm(
        name=name,
        command=(sys.executable, "-m", module, *flags),
        port=port,
        ready_path="/health",
        environment=environment or {},
    )


def ray_openai_app(model_dir: Path) -> Arm:
    """Build Ray Serve's `build_openai_app` with its defaults."""
    port = free_port()
    module = "benchmarks.servers.ray_openai_app"
    return Arm(
        name="ray-openai-app",
        command=(sys.executable, "-m", module, str(port), MODEL, str(model_dir)),
        port=port,
        ready_path="/v1/models",
    )


def ringfence(_model_dir: Path, *parts: str) -> Arm:
    """Build Ringfence, started by its public command in `RINGFENCE_HOME`, with these parts."""
    port = free_port()
    directory = Path(tempfile.mkdtemp(prefix="ringfence-benchmark-"))
    plain = {"models": [{"id": MODEL, "dtype": ENGINE_ARGUMENTS["dtype"]}]}
    config = write_configuration(directory / "ringfence.yaml", plain, parts)
    return Arm(
        name="+".join([RINGFENCE, *parts]),
        command=(*SERVE, "--port", str(port), "--config", str(config)),
        port=port,
        ready_path="/ready",
        environment={"RINGFENCE_API_KEY": API_KEY},
        writes_model_dir=True,
    )


def isolated_ringfence(directory: Path, plain: Mapping[str, Any], *parts: str) -> Arm:
    """Ringfence by its public command, with a home of its own in `directory`.

    Args:
        directory: Gets the configuration and the home.
        plain: The configuration without its port. Requests name the first of its models.
        parts: Parts that are on as well.
    """
    port = free_port()
    name = "+".join([RINGFENCE, *parts])
    server = {"drain_s": 1, **plain.get("server", {}), "port": port}
    config = write_configuration(directory / f"{name}.yaml", {**plain, "server": server}, parts)
    return Arm(
        name=name,
        command=(*SERVE, "--config", str(config)),
        port=port,
        ready_path="/ready",
        model=plain["models"][0]["id"],
        environment={
            "RINGFENCE_API_KEY": API_KEY,
            "RINGFENCE_HOME": str(directory / f"{name}-home"),
            "RINGFENCE_CONFIG": str(config),
        },
    )


BUILDERS: Mapping[str, Callable[..., Arm]] = {
    "bare-vllm": bare_vllm,
    "bare-vllm-mp": bare_vllm_mp,
    "ray-openai-app": ray_openai_app,
    RINGFENCE: ringfence,
}


def built(name: str, model_dir: Path) -> Arm:
    """Build the arm with that name, including the parts in the name."""
    return BUILDERS[name.partition("+")[0]](model_dir, *parts_of(name))


def default_model_dir() -> Path:
    """Return the directory where Ringfence's first start puts the weights."""
    return Path(os.environ.get("RINGFENCE_HOME", ".ringfence")) / "models" / MODEL
