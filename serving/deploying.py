"""Deploys the application to a Ray cluster, in a process that then ends.

Building the graph imports every part of the application, and vLLM where a model needs a GPU. That
takes seconds and hundreds of MB that the supervising command must not keep. The process is started
before Ray, so that the seconds pass while Ray starts.
"""

from __future__ import annotations

import importlib
import json
import sys

import ray

from models.ray_compat import deploy
from models.resources.machine import this_machine
from serving import config
from serving.app import build
from serving.ray_cluster.cluster import APPLICATION
from serving.ray_cluster.local_models import CannotRun, check_contexts, local_engines

_MODULES = {
    "vllm": "models.vllm.engine",
    "sentence-transformers": "models.embedding.embedder_server",
    "simulated": "models.simulated.server",
}
"""The module that builds a model, by the kind of engine. On a CPU that does not need vLLM."""


def main() -> None:
    """Deploy what standard input says; do not wait for the models.

    Its first line is the configuration as JSON. A line of JSON on standard output answers it: how
    each engine will run on this machine (`engines`), or why the models cannot (`problems`). The
    second line, which may come much later, is the cluster's address; without one nothing is
    deployed.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # Some of what is imported prints.
    raw = json.loads(sys.stdin.readline())
    settings = config.parse(raw)
    for spec in settings.models:
        if (spec.engine, spec.device) != ("vllm", "cpu"):
            importlib.import_module(_MODULES[spec.engine])
    try:
        check_contexts(settings)
        engines = local_engines(settings, this_machine())
    except CannotRun as error:
        print(json.dumps({"problems": error.problems}), file=answers)
        return
    print(json.dumps({"engines": [str(engine) for engine in engines]}), file=answers)
    address = sys.stdin.readline().strip()
    if not address:
        return
    # Building starts a cluster of its own where none was joined.
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    caches = {engine.model: engine.cache_bytes for engine in engines}
    deploy(build({"config": raw, "cache_bytes": caches}), name=APPLICATION)


if __name__ == "__main__":
    main()
