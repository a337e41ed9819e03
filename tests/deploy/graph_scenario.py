"""Builds the applications of Ray Serve configurations as Ray's controller does; starts none.

Usage: graph_scenario.py RESULT.json SERVE_CONFIG.yaml...

Runs in its own process: building asks a running Ray for its runtime environment, and a process can
be part of only one Ray cluster.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.serve._private.application_state import build_serve_application, override_deployment_info
from ray.serve._private.deploy_utils import deploy_args_to_deployment_info
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve.schema import LoggingConfig, ServeApplicationSchema, ServeDeploySchema


def build(app: ServeApplicationSchema) -> dict[str, DeploymentInfo]:
    """Return what the controller would deploy, with the configuration's overrides."""
    _, deployments, error = build_serve_application._function(
        app.import_path, "", app.name, app.args, LoggingConfig(), None, {}, {}, {}
    )
    if error is not None:
        raise RuntimeError(error)
    infos = {
        arguments["deployment_name"]: deploy_args_to_deployment_info(**arguments, app_name=app.name)
        for arguments in deployments
    }
    overridden: dict[str, DeploymentInfo] = override_deployment_info(infos, app)
    return overridden


def shown(info: DeploymentInfo) -> dict[str, Any]:
    """Return the tested options of a deployment."""
    config, replica = info.deployment_config, info.replica_config
    scaling = config.autoscaling_config
    actor = dict(replica.ray_actor_options)
    return {
        "ingress": info.ingress,
        "replicas": [scaling.min_replicas, scaling.max_replicas]
        if scaling
        else config.num_replicas,
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": config.max_queued_requests,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "router": config.request_router_config.request_router_class,
        "bundles": replica.placement_group_bundles,
        "strategy": replica.placement_group_strategy,
        "env_vars": dict(actor.pop("runtime_env", {}).get("env_vars", {})),
        "actor": actor,
    }


def main() -> None:
    result, *files = sys.argv[1:]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    graphs = {}
    for file in files:
        deploy = ServeDeploySchema.model_validate(yaml.safe_load(Path(file).read_text("utf-8")))
        (app,) = deploy.applications
        graphs[file] = {name: shown(info) for name, info in build(app).items()}
    Path(result).write_text(json.dumps(graphs), "utf-8")


if __name__ == "__main__":
    main()
