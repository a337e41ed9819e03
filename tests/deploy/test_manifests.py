from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from models.catalog import PREFIX_ROUTER, ModelSpec
from serving import config
from serving.cli.root import app as cli
from serving.config import QUIET_ENVIRONMENT
from serving.config.settings import LimitDefault
from serving.knowledge.server import ONE_THREAD
from serving.ray_cluster.cluster import APPLICATION, SERVE_FLAGS
from serving.ray_cluster.serve_config import serve_config
from serving.wiring.stopping import CLOSE_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIG = DEPLOY / "gpu" / "ringfence.yaml"
SERVE_CONFIG = DEPLOY / "gpu" / "serve_config.yaml"
RAYSERVICE = DEPLOY / "kubernetes" / "rayservice.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

DATABASE_URL = "postgresql://ringfence:pw@db:5432/ringfence"
VALKEY_URL = "rediss://ringfence:pw@valkey:6379/0"
ENVIRONMENT = {
    "RINGFENCE_DATABASE_URL": DATABASE_URL,
    "RINGFENCE_VALKEY_URL": VALKEY_URL,
    "RINGFENCE_SECRET": "s" * 32,
}
ENGINES = {"Engine:qwen3-8b", "Engine:llama-3_3-70b"}

RETRIEVAL = {"Knowledge", "Curator"}

REMAKE = "made from deploy/gpu/ringfence.yaml; deploy/README.md has the commands"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def service() -> dict[str, Any]:
    spec: dict[str, Any] = read(RAYSERVICE)["spec"]
    return spec


def groups() -> list[dict[str, Any]]:
    cluster = service()["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod_specs() -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in groups()]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pod_specs() for container in pod["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def secret_keys(container: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables filled from the secret `ringfence`, with its keys."""
    references = {
        entry["name"]: entry["valueFrom"]["secretKeyRef"]
        for entry in container["env"]
        if "valueFrom" in entry
    }
    return {name: one["key"] for name, one in references.items() if one["name"] == "ringfence"}


def served() -> tuple[ModelSpec, ...]:
    return config.parse(read(CONFIG), ENVIRONMENT).models


def strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a document, with its key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ((key, inner),) if isinstance(inner, str) else strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the deployments that Ray builds from each file, by file name."""
    directory = tmp_path_factory.mktemp("graphs")
    of_service = directory / "rayservice.yaml"
    of_service.write_text(service()["serveConfigV2"], "utf-8")
    result = directory / "result.json"
    script = Path(__file__).with_name("graph_scenario.py")
    run = subprocess.run(
        [sys.executable, str(script), str(result), str(SERVE_CONFIG), str(of_service)],
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": os.defpath,
            "HOME": str(directory),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's ports on loopback only.
            **QUIET_ENVIRONMENT,
            **SERVE_FLAGS,
            **ENVIRONMENT,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {Path(name).name: graph for name, graph in json.loads(result.read_bytes()).items()}


@pytest.fixture(scope="module")
def graph(graphs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    deployments: dict[str, Any] = graphs["serve_config.yaml"]
    return deployments


def test_example_is_a_valid_configuration() -> None:
    run = CliRunner().invoke(
        cli, ["config", "check", "--elsewhere", "-c", str(CONFIG)], env=ENVIRONMENT
    )
    assert run.exit_code == 0, run.output
    assert "It serves qwen3-8b, llama-3.3-70b, all-minilm-l6-v2." in run.output


def test_secrets_come_from_the_environment() -> None:
    settings = config.parse(read(CONFIG), ENVIRONMENT)
    assert settings.access.database_url == DATABASE_URL
    assert settings.access.secret is not None
    assert settings.access.secret.get_secret_value() == ENVIRONMENT["RINGFENCE_SECRET"]
    assert settings.valkey_url == VALKEY_URL


def test_every_model_on_gpus_has_a_price() -> None:
    for spec in served():
        if spec.device == "gpu":
            assert spec.price.input_per_million > 0
            assert spec.price.output_per_million > spec.price.input_per_million
            assert spec.price.per_gpu_second > 0


def test_every_key_is_limited_and_none_is_stopped_by_a_valkey_that_is_away() -> None:
    per_key = config.parse(read(CONFIG), ENVIRONMENT).admission.per_key
    assert per_key.requests_per_minute == LimitDefault(value=600, without_store="allow")
    assert per_key.concurrent_requests == LimitDefault(value=64, without_store="allow")


def test_serve_config_is_what_the_command_prints() -> None:
    run = CliRunner().invoke(cli, ["config", "serve-config", "-c", str(CONFIG)])
    assert run.exit_code == 0, run.output
    lines = SERVE_CONFIG.read_text("utf-8").splitlines(keepends=True)
    assert run.output == "".join(line for line in lines if not line.startswith("#")), REMAKE


def test_serve_config_carries_the_configuration_as_written() -> None:
    (application,) = read(SERVE_CONFIG)["applications"]
    assert application["args"] == {"config": read(CONFIG)}


def test_rayservice_carries_the_same_serve_config() -> None:
    assert yaml.safe_load(service()["serveConfigV2"]) == read(SERVE_CONFIG), REMAKE


def test_serve_config_does_not_depend_on_who_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RINGFENCE_PORT", "RINGFENCE_API_KEY", *ENVIRONMENT):
        monkeypatch.setenv(name, "9999")
    assert serve_config(read(CONFIG)) == read(SERVE_CONFIG)


def test_serve_config_of_a_wrong_configuration_is_refused() -> None:
    with pytest.raises(config.ConfigError, match=r"server\.prot: unknown key; did you mean 'port'"):
        serve_config({"server": {"prot": 1}})


def test_application_is_named_as_the_readiness_check_expects() -> None:
    (application,) = read(SERVE_CONFIG)["applications"]
    assert application["name"] == APPLICATION


def test_gateways_listen_where_haproxy_of_other_nodes_reaches_them() -> None:
    deployed = read(SERVE_CONFIG)
    assert deployed["http_options"] == {"host": "0.0.0.0", "port": 8000}  # noqa: S104
    assert deployed["proxy_location"] == "EveryNode"


def test_replicas_get_the_flags_of_the_local_cluster() -> None:
    (application,) = read(SERVE_CONFIG)["applications"]
    assert application["runtime_env"] == {"env_vars": QUIET_ENVIRONMENT | SERVE_FLAGS}


def test_both_files_build_the_same_graph(graphs: dict[str, dict[str, Any]]) -> None:
    assert graphs["rayservice.yaml"] == graphs["serve_config.yaml"]


def test_graph_has_a_gateway_and_one_deployment_a_model(graph: dict[str, Any]) -> None:
    assert set(graph) == {"Gateway", *RETRIEVAL, "Embedder:all-minilm-l6-v2"} | ENGINES
    assert set(graph) - {"Gateway", *RETRIEVAL} == {spec.deployment_name for spec in served()}
    assert [name for name, deployment in graph.items() if deployment["ingress"]] == ["Gateway"]


def test_graph_has_the_replicas_of_the_configuration(graph: dict[str, Any]) -> None:
    assert {name: deployment["replicas"] for name, deployment in graph.items()} == {
        "Gateway": 2,
        "Knowledge": 2,
        "Curator": 1,
        "Engine:qwen3-8b": [1, 2],
        "Engine:llama-3_3-70b": 1,
        "Embedder:all-minilm-l6-v2": 2,
    }


def test_engine_with_several_replicas_is_routed_by_prefix(graph: dict[str, Any]) -> None:
    own = {name for name, d in graph.items() if d["router"] == PREFIX_ROUTER}
    assert own == {"Engine:qwen3-8b"}


def test_every_models_queue_is_finite(graph: dict[str, Any]) -> None:
    limits = {
        spec.deployment_name: (spec.max_ongoing_requests, spec.max_queued_requests)
        for spec in served()
    }
    assert limits == {
        name: (deployment["max_ongoing_requests"], deployment["max_queued_requests"])
        for name, deployment in graph.items()
        if name not in ("Gateway", *RETRIEVAL)
    }
    assert graph["Knowledge"]["max_queued_requests"] == 256
    assert graph["Gateway"]["max_ongoing_requests"] == 1024


def test_every_deployment_drains_as_long_and_a_gateway_then_closes(graph: dict[str, Any]) -> None:
    drains = {name: d["graceful_shutdown_timeout_s"] for name, d in graph.items()}
    assert drains == dict.fromkeys(graph, 300.0) | {"Gateway": 300.0 + CLOSE_S}


def test_engine_reserves_the_cards_it_runs_on(graph: dict[str, Any]) -> None:
    card = {"GPU": 1, "accelerator_type:H100": 0.001}
    assert graph["Engine:llama-3_3-70b"]["bundles"] == [card | {"CPU": 1}, card, card, card]
    assert graph["Engine:qwen3-8b"]["bundles"] == [
        {"CPU": 1, "GPU": 1, "accelerator_type:L4": 0.001}
    ]


def test_nothing_fits_on_the_head_node(graph: dict[str, Any]) -> None:
    head = service()["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(deployment["actor"]["num_cpus"] > 0 for deployment in graph.values())


def test_replicas_are_quiet_and_hold_no_secret(graph: dict[str, Any]) -> None:
    for name, deployment in graph.items():
        own = ONE_THREAD if name in RETRIEVAL else {}
        assert deployment["env_vars"] == QUIET_ENVIRONMENT | SERVE_FLAGS | own
    shown = json.dumps(graph)
    assert not [value for value in ENVIRONMENT.values() if value in shown]


def test_every_ray_container_has_the_flags() -> None:
    for container in containers():
        assert environment(container).items() >= (QUIET_ENVIRONMENT | SERVE_FLAGS).items()


def test_every_ray_container_has_the_secrets_that_the_configuration_names() -> None:
    for container in containers():
        assert secret_keys(container) == {
            "RINGFENCE_DATABASE_URL": "database-url",
            "RINGFENCE_VALKEY_URL": "valkey-url",
            "RINGFENCE_SECRET": "secret",
        }
        assert secret_keys(container).keys() == ENVIRONMENT.keys()


def test_secret_is_made_with_the_keys_that_containers_take() -> None:
    readme = (DEPLOY / "README.md").read_text("utf-8")
    (command,) = re.findall(r"secret generic ringfence \\\n((?:.*\\\n)*.*)", readme)
    made = set(re.findall(r"--from-literal=([\w-]+)=", command))
    assert made == set(secret_keys(containers()[0]).values())


def test_every_proxy_is_the_hardened_one() -> None:
    for container in containers():
        path = environment(container)["RAY_SERVE_HAPROXY_BINARY_PATH"]
        assert Path(path).name == "ringfence-haproxy"


def test_ray_asks_for_a_token() -> None:
    cluster = service()["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == "2.60.0"


def test_streams_may_end_before_anything_is_stopped() -> None:
    settings = config.parse(read(CONFIG), ENVIRONMENT)
    drain_s = settings.server.drain_s
    longest_stream_s = 8192 / 30
    assert drain_s >= settings.admission.max_request_s > longest_stream_s
    assert service()["rayClusterDeletionDelaySeconds"] > drain_s + CLOSE_S
    for container in containers():
        assert float(environment(container)["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= drain_s
    for pod in pod_specs()[1:]:
        (container,) = pod["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert command.endswith(f"sleep {drain_s + CLOSE_S:g}")
        assert pod["terminationGracePeriodSeconds"] > drain_s + CLOSE_S


def test_a_pod_takes_traffic_when_a_gateway_answers_through_it() -> None:
    for pod in pod_specs()[1:]:
        (container,) = pod["containers"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8000}
    assert service()["excludeHeadPodFromServeSvc"] is True


def test_pods_have_the_cards_that_all_replicas_need() -> None:
    needed: dict[str, int] = {}
    for spec in served():
        if spec.device == "gpu":
            count = spec.tensor_parallel_size * spec.pipeline_parallel_size
            replicas = spec.max_replicas or spec.replicas
            needed[str(spec.accelerator_type).lower()] = count * replicas
    there = {
        group["groupName"]: group["replicas"] * int(limits["nvidia.com/gpu"])
        for group in groups()[1:]
        for limits in [group["template"]["spec"]["containers"][0]["resources"]["limits"]]
        if "nvidia.com/gpu" in limits
    }
    assert there == needed


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_images_are_pinned(path: Path) -> None:
    images = [text for doc in documents(path) for key, text in strings(doc) if key == "image"]
    assert images or path.name in ("network-policy.yaml", "files.yaml")
    assert not [image for image in images if not re.search(r":[0-9][\w.-]*$", image)]


@pytest.mark.parametrize("path", [CONFIG, SERVE_CONFIG, *MANIFESTS], ids=lambda path: path.name)
def test_no_secret_is_written_in_clear(path: Path) -> None:
    for document in documents(path):
        for entry in variables(document):
            if re.search(r"SECRET|TOKEN|PASSWORD|DATABASE|VALKEY", entry["name"]):
                assert "secretKeyRef" in entry.get("valueFrom", {}) or entry["value"] == "unused"
        for key, text in strings(document):
            if re.search(r"secret|database|valkey|password|token", key):
                assert re.fullmatch(r"\$\{\w+\}", text), key


def documents(path: Path) -> list[Any]:
    found = list(yaml.safe_load_all(path.read_text("utf-8")))
    if path == RAYSERVICE:
        found.append(yaml.safe_load(service()["serveConfigV2"]))
    return found


def variables(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every environment variable of every container."""
    if isinstance(value, dict):
        yield from value.get("env", ())
        for inner in value.values():
            yield from variables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from variables(inner)


def test_containers_run_without_privileges() -> None:
    for pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def policy() -> dict[str, Any]:
    spec: dict[str, Any] = read(DEPLOY / "kubernetes" / "network-policy.yaml")["spec"]
    return spec


def test_network_policy_covers_every_pod_in_both_directions() -> None:
    selected = policy()["podSelector"]["matchLabels"]
    assert policy()["policyTypes"] == ["Ingress", "Egress"]
    for group in groups():
        assert group["template"]["metadata"]["labels"].items() >= selected.items()


def test_pods_reach_each_other_dns_and_the_stores_only() -> None:
    ring, dns, database, valkey, chroma = policy()["egress"]
    assert ring == {"to": [{"podSelector": policy()["podSelector"]}]}
    assert {rule["port"] for rule in dns["ports"]} == {53}
    assert database["ports"] == [{"protocol": "TCP", "port": 5432}]
    assert valkey == {
        "to": [{"podSelector": {"matchLabels": {"app": "valkey"}}}],
        "ports": [{"protocol": "TCP", "port": 6379}],
    }
    assert chroma == {
        "to": [{"podSelector": {"matchLabels": {"app": "chroma"}}}],
        "ports": [{"protocol": "TCP", "port": 8000}],
    }


def test_files_are_on_a_volume_of_every_pod_that_may_hold_a_gateway() -> None:
    for group in service()["rayClusterConfig"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "files", "mountPath": "/files"} in container["volumeMounts"]


def test_clients_reach_haproxy_only() -> None:
    ring, operator, clients = policy()["ingress"]
    assert ring == {"from": [{"podSelector": policy()["podSelector"]}]}
    assert {rule["port"] for rule in operator["ports"]} == {8000, 8265}
    assert clients["ports"] == [{"protocol": "TCP", "port": 8000}]


def test_weights_are_fetched_for_every_model_that_is_not_packaged() -> None:
    _, job = documents(DEPLOY / "kubernetes" / "weights.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (models,) = re.findall(r"for model in (.*); do", container["command"][-1])
    assert models.split() == [spec.id for spec in served() if isinstance(spec.source, str)]
    assert job["spec"]["template"]["metadata"]["labels"] != policy()["podSelector"]["matchLabels"]


def test_weights_are_fetched_with_every_variable_that_the_configuration_names() -> None:
    _, job = documents(DEPLOY / "kubernetes" / "weights.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert environment(container).items() >= dict.fromkeys(ENVIRONMENT, "unused").items()
