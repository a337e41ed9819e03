"""Deploys the application to a Ray cluster, in a process that then ends.

Building the graph imports vLLM: ten seconds and 600 MB that the supervising command must not keep.
It is started before Ray, so that the ten seconds pass while Ray starts.
"""

from __future__ import annotations

import importlib
import json
import sys

import ray
from ray import serve

from serving import config
from serving.app import build
from serving.cluster import APPLICATION

_MODULES = {
    "vllm": "models.vllm_engine",
    "sentence-transformers": "models.embedder_server",
    "simulated": "models.simulated_server",
}
"""What building a model of each kind imports."""


def main() -> None:
    """Deploy what standard input says; do not wait for the models.

    Its first line is the configuration as JSON, its second, which may come much later, the
    cluster's address. Without a second one nothing is deployed.
    """
    raw = json.loads(sys.stdin.readline())
    for engine in {spec.engine for spec in config.parse(raw).models}:
        importlib.import_module(_MODULES[engine])
    address = sys.stdin.readline().strip()
    if not address:
        return
    # Building starts a cluster of its own where none was joined.
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    serve._run(  # noqa: SLF001  The public `run` waits until every model is loaded.
        build({"config": raw}), name=APPLICATION, route_prefix="/", _blocking=False
    )


if __name__ == "__main__":
    main()
