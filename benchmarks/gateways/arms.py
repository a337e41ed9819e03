"""The gateways under comparison, as data: how each is started, and in front of which upstream.

Every gateway gets the fastest settings in its documentation, checks a key if it can, writes no
access log and keeps no state. Starts nothing itself; each server listens on loopback only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import yaml

from benchmarks.running.arms import API_KEY, HOST, Arm, isolated_ringfence
from benchmarks.running.parts import RINGFENCE, parts_of
from benchmarks.running.ports import free_port
from benchmarks.servers.steps import Pace

MODEL = "simulated"
UPSTREAM = "direct"
# Far above the streams of any study, so that no arm queues or refuses.
MOST_REQUESTS = 4096


@dataclass(frozen=True, slots=True)
class Setting:
    """What the arms are built with.

    Attributes:
        pace: Pace of every upstream and every simulated engine.
        upstream_port: Port of the mock.
        directory: Directory for generated configuration and state.
        litellm: The `litellm` command of its own environment.
        router: The `vllm-router` command of its own environment.
    """

    pace: Pace
    upstream_port: int
    directory: Path
    litellm: Path
    router: Path

    @property
    def upstream_url(self) -> str:
        """URL of the mock."""
        return f"http://{HOST}:{self.upstream_port}"


def token_stream(pace: Pace, *, port: int, name: str) -> Arm:
    """Build the server that only streams tokens."""
    module = "benchmarks.servers.token_stream"
    steps = (str(pace.step_ms), str(pace.per_stream_ms))
    return Arm(
        name=name,
        command=(sys.executable, "-m", module, str(port), *steps),
        port=port,
        ready_path="/health",
        model=MODEL,
    )


def direct(setting: Setting) -> Arm:
    """Build the mock upstream itself, which is the lower bound of every cost."""
    return token_stream(setting.pace, port=setting.upstream_port, name=UPSTREAM)


def litellm(setting: Setting) -> Arm:
    """Build LiteLLM's proxy: one worker, a master key, no database, callbacks or logging."""
    port = free_port()
    upstream = {
        "model": f"openai/{MODEL}",
        "api_base": f"{setting.upstream_url}/v1",
        "api_key": "none",
    }
    document = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
        "litellm_settings": {
            "telemetry": False,
            "num_retries": 0,
            "request_timeout": 600,
            "disable_streaming_logging": True,
        },
        "general_settings": {"master_key": API_KEY, "disable_spend_logs": True},
    }
    config = setting.directory / "litellm.yaml"
    config.write_text(yaml.safe_dump(document), "utf-8")
    flags = ["--config", str(config), "--host", HOST, "--port", str(port), "--num_workers", "1"]
    return Arm(
        name="litellm",
        command=(str(setting.litellm), *flags),
        port=port,
        ready_path="/health/liveliness",
        model=MODEL,
        environment={
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DONT_SHOW_FEEDBACK_BOX": "True",
            "NO_DOCS": "True",
        },
    )


def vllm_router(setting: Setting) -> Arm:
    """Build the vLLM project's router, in Rust. It checks no key, and passes ours on."""
    port = free_port()
    flags = ["--host", HOST, "--port", str(port), "--worker-urls", setting.upstream_url]
    flags += ["--policy", "round_robin", "--log-level", "error"]
    flags += ["--prometheus-host", HOST, "--prometheus-port", str(free_port())]
    flags += ["--max-concurrent-requests", str(MOST_REQUESTS)]
    return Arm(
        name="vllm-router",
        command=(str(setting.router), *flags),
        port=port,
        ready_path="/health",
        model=MODEL,
    )


def ringfence(setting: Setting, *parts: str) -> Arm:
    """Build Ringfence, started by its public command, with these parts enabled.

    The replica of its simulated engine is its upstream.
    """
    simulation = {
        "step_base_ms": setting.pace.step_ms,
        "step_per_sequence_ms": setting.pace.per_stream_ms,
        "prefill_ms_per_token": 0,
        "max_batch": MOST_REQUESTS,
    }
    model = {"id": MODEL, "simulation": simulation, "max_ongoing_requests": MOST_REQUESTS}
    plain = {"server": {"max_ongoing_requests": MOST_REQUESTS}, "models": [model]}
    return replace(isolated_ringfence(setting.directory, plain, *parts), engine_title=":Engine:")


def ray_openai_app(setting: Setting) -> Arm:
    """Build Ray Serve's `build_openai_app` with its defaults, around an engine without a model."""
    port = free_port()
    pace = (str(setting.pace.step_ms), str(setting.pace.per_stream_ms))
    module = "benchmarks.servers.ray_simulated_app"
    return Arm(
        name="ray-openai-app-simulated",
        command=(sys.executable, "-m", module, str(port), MODEL, *pace),
        port=port,
        ready_path="/v1/models",
        model=MODEL,
        engine_title=":LLMServer:",
    )


BUILDERS: Mapping[str, Callable[..., Arm]] = {
    UPSTREAM: direct,
    "litellm": litellm,
    "vllm-router": vllm_router,
    RINGFENCE: ringfence,
    "ray-openai-app-simulated": ray_openai_app,
}


def built(name: str, setting: Setting) -> Arm:
    """Build the arm with that name, including the parts in the name."""
    return BUILDERS[name.partition("+")[0]](setting, *parts_of(name))


def foreign_command(variable: str, default: str) -> Path:
    """Return the command of a gateway with its own environment: `variable`, else `default`."""
    return Path(os.environ.get(variable) or default).absolute()


def foreign_versions(commands: Mapping[str, Path]) -> dict[str, str | None]:
    """Return the version of each distribution in its command's environment; None if missing."""
    versions = {}
    for name, command in commands.items():
        places = [str(place) for place in command.parents[1].glob("lib/python3*/site-packages")]
        found = next(iter(metadata.distributions(name=name, path=places)), None)
        versions[name] = found.version if found else None
    return versions
