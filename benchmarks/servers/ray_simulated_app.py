"""Ray Serve's own OpenAI application at Ray's defaults, around an engine without a model.

Arguments: port, model name, ms a step, ms a step for each open stream. Ends on SIGTERM.
"""

from __future__ import annotations

import os
import sys

from ray.serve.llm import LLMConfig

from benchmarks.servers.ray_openai_app import serve_until_signal
from benchmarks.servers.ray_simulated_engine import PACE_VARIABLE, SimulatedEngine


def main() -> None:
    """Serve until a signal."""
    port, model, *pace = sys.argv[1:]
    # Read in the engine's replica, which inherits them.
    os.environ[PACE_VARIABLE] = ",".join(pace)
    os.environ["RAYLLM_VLLM_ENGINE_CLS"] = (
        f"{SimulatedEngine.__module__}.{SimulatedEngine.__qualname__}"
    )
    config = LLMConfig(
        model_loading_config={"model_id": model, "model_source": model},
        accelerator_config={"kind": "cpu"},
    )
    serve_until_signal(config, port=int(port))


if __name__ == "__main__":
    main()
