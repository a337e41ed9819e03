"""Ray Serve's configuration file of a `ringfence.yaml`, for clusters that others start.

The configuration goes in as it is written, `${ENV}` unfilled: each process fills it from its own
environment, so the file holds no secret. Knows nothing of Kubernetes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from serving import config
from serving.config import QUIET_ENVIRONMENT
from serving.knowledge.curation import CURATOR, KNOWLEDGE
from serving.privacy.detector.server import NAME as DETECTOR
from serving.ray_cluster.cluster import APPLICATION, SERVE_FLAGS


def serve_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Build the document that `serve deploy` and a RayService's `serveConfigV2` take.

    The flags reach the processes of the application only. Ray's controller and proxies read them
    from the environment of `ray start`, which has to hold them too.

    Args:
        raw: a configuration as written.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    settings = config.parse(raw, dict.fromkeys(_variables(raw), "filled-where-it-runs"))
    server = settings.server
    names = ["Gateway", *(spec.deployment_name for spec in settings.models)]
    if settings.embedder is not None:
        names.append(KNOWLEDGE)
        if settings.retrieval.replicas > 1:
            names.append(CURATOR)
    if settings.overflow.providers:
        names.append(DETECTOR)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": server.host, "port": server.port},
        "applications": [
            {
                "name": APPLICATION,
                "import_path": "serving.app:build",
                "route_prefix": "/",
                "runtime_env": {"env_vars": QUIET_ENVIRONMENT | SERVE_FLAGS},
                "args": {"config": dict(raw)},
                # Ray merges this runtime_env only into deployments that are named here.
                "deployments": [{"name": name} for name in names],
            }
        ],
    }


def _variables(raw: Mapping[str, Any]) -> list[str]:
    return re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", json.dumps(raw))
