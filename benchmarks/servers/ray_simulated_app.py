"""Ray Serve's own OpenAI application with Ray's defaults, around an engine without a model.

The arguments are port, model name, ms per step, and ms per step and open stream. SIGTERM ends it.
"""

from __future__ import annotations

import os
import sys

from ray.serve.llm import LLMConfig

from benchmarks.servers.ray_openai_app import serve_until_signal
from benchmarks.servers.ray_simulated_engine import PACE_VARIABLE, RaySimulatedEngine


def main() -> None:
    """Serve until a signal comes."""
    port, model, *pace = sys.argv[1:]
    # The engine's replica inherits and reads these variables.
    os.environ[PACE_VARIABLE] = ",".join(pace)
    os.environ["RAYLLM_VLLM_ENGINE_CLS"] = (
        f"{RaySimulatedEngine.__module__}.{RaySimulatedEngine.__qualname__}"
    )
    config = LLMConfig(
        model_loading_config={"model_id": model, "model_source": model},
        accelerator_config={"kind": "cpu"},
    )
    serve_until_signal(config, port=int(port))


if __name__ == "__main__":
    main()
