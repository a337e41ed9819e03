"""Deploys the application to a running Ray cluster, in a process that then ends.

Building the graph imports vLLM: ten seconds and 600 MB that the supervising command must not keep.
"""

from __future__ import annotations

import json
import sys

import ray
from ray import serve

from serving.app import build
from serving.cluster import APPLICATION


def main() -> None:
    """Read `{"address", "config"}` from standard input and deploy; do not wait for the models."""
    order = json.load(sys.stdin)
    ray.init(address=order["address"], log_to_driver=False, logging_level="ERROR")
    serve._run(  # noqa: SLF001  The public `run` waits until every model is loaded.
        build({"config": order["config"]}), name=APPLICATION, route_prefix="/", _blocking=False
    )


if __name__ == "__main__":
    main()
