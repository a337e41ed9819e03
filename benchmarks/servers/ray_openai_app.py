"""Ray Serve's own OpenAI application around one vLLM engine, with Ray's defaults.

The arguments are port, model name and model directory. SIGTERM ends it and its Ray cluster.
"""

from __future__ import annotations

import signal
import sys

import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

from benchmarks.running.arms import ENGINE_ARGUMENTS, HOST

# Logical CPUs: the ingress replicas, the engine's bundle and Ray's own actors must fit.
LOGICAL_CPUS = 8


def main() -> None:
    """Serve until a signal comes."""
    port, model, model_dir = sys.argv[1:]
    config = LLMConfig(
        model_loading_config={"model_id": model, "model_source": model_dir},
        accelerator_config={"kind": "cpu"},
        engine_kwargs=dict(ENGINE_ARGUMENTS),
    )
    serve_until_signal(config, port=int(port))


def serve_until_signal(config: LLMConfig, *, port: int) -> None:
    """Serve one model in our own Ray cluster, which ends with this process."""
    ray.init(
        address="local",
        num_cpus=LOGICAL_CPUS,
        include_dashboard=False,
        _node_ip_address=HOST,
    )
    # Ray turns SIGTERM into SystemExit, so the cluster always ends here.
    try:
        serve.start(http_options={"host": HOST, "port": port})
        serve.run(build_openai_app({"llm_configs": [config]}))
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
