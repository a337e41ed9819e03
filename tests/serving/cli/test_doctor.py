"""`ringfence doctor`."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest

from models.resources.machine import this_machine
from serving.ray_cluster.haproxy import write_errors
from tests.openapi import application
from tests.serving.cli.conftest import Run
from tests.serving.live import listening
from tests.tiny_model import make_tiny

Write = Callable[[str], str]


@pytest.fixture
def findings(run: Run, config_file: Write) -> Callable[..., dict[str, Any]]:
    def look(text: str, *, code: int = 0) -> dict[str, Any]:
        shown = run("doctor", "--json", "-c", config_file(text), code=code).stdout
        return {row["check"]: row for row in json.loads(shown)}

    return look


Look = Callable[..., dict[str, Any]]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def simulated(**server: Any) -> str:
    return json.dumps({"server": server, "models": ["simulated"]})


def test_machine_is_looked_at(findings: Look, free_port: int) -> None:
    found = findings(simulated(port=free_port))
    assert found.keys() == {
        *(
            "Python",
            "package ray",
            "package torch",
            "patches",
            "memory",
            "cores",
            "GPUs",
            "disk",
            "Valkey",
        ),
        *("port", "reachable", "leaves the machine", "model simulated"),
    }
    assert {row["state"] for row in found.values()} <= {"ok", "warn"}


def test_each_finding_is_a_line(run: Run, config_file: Write, free_port: int) -> None:
    lines = run("doctor", "-c", config_file(simulated(port=free_port))).stdout.splitlines()
    assert len(lines) == 13
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}


def test_port_that_is_taken_is_a_failure(findings: Look, taken_port: int) -> None:
    port = findings(simulated(port=taken_port), code=1)["port"]
    assert (port["state"], str(taken_port) in port["detail"]) == ("fail", True)


def test_host_that_is_not_ours_is_a_failure(findings: Look) -> None:
    assert findings(simulated(host="192.0.2.1"), code=1)["port"]["state"] == "fail"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_port_of_an_ipv6_host_is_looked_at(findings: Look, free_port: int) -> None:
    assert findings(simulated(host="::1", port=free_port))["port"]["state"] == "ok"


def test_simulated_model_is_pointed_out(findings: Look, free_port: int) -> None:
    assert findings(simulated(port=free_port))["model simulated"] == {
        "check": "model simulated", "state": "warn", "detail": "simulated: answers are made up"
    }  # fmt: skip


def test_missing_weights_are_a_failure_with_a_remedy(findings: Look, free_port: int) -> None:
    text = json.dumps(
        {"server": {"port": free_port}, "models": [{"id": "far", "source": "/nowhere"}]}
    )
    found = findings(text, code=1)["model far"]
    assert (found["state"], "ringfence models pull far" in found["detail"]) == ("fail", True)


def test_missing_gpus_are_a_failure(findings: Look, free_port: int) -> None:
    model = {"base": "simulated", "device": "gpu", "tensor_parallel_size": 64}
    text = json.dumps({"server": {"port": free_port}, "models": [model]})
    assert findings(text, code=1)["GPUs"]["state"] == "fail"


def own(port: int, source: Path, **fields: Any) -> str:
    model = {"id": "mine", "source": str(source)} | fields
    return json.dumps({"server": {"port": port}, "models": [model]})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def test_precision_and_cache_of_each_engine_are_told(
    findings: Look, free_port: int, tiny: Path
) -> None:
    found = findings(own(free_port, tiny, kv_cache_gib=0.25))["engine mine"]
    dtype = "bfloat16" if this_machine().bfloat16 else "float32 (this CPU has no bfloat16)"
    assert (found["state"], found["detail"]) == (
        "ok",
        f"computes in {dtype}; 0.25 GiB of KV cache",
    )


def test_cache_that_no_machine_has_is_a_failure(findings: Look, free_port: int, tiny: Path) -> None:
    found = findings(own(free_port, tiny, kv_cache_gib=10**6), code=1)["memory"]
    assert found["state"] == "fail"
    assert "mine: 1000000.0 GiB of KV cache are more than the" in found["detail"]


def test_more_context_than_a_model_has_is_a_failure(
    findings: Look, free_port: int, tiny: Path
) -> None:
    found = findings(own(free_port, tiny, kv_cache_gib=0.1, context_tokens=4096), code=1)
    assert "4,096 are more than the 2,048 that the model has" in found["context"]["detail"]


def test_nothing_leaves_by_default(findings: Look, free_port: int) -> None:
    found = findings(simulated(port=free_port))
    assert found["leaves the machine"] == {
        "check": "leaves the machine",
        "state": "ok",
        "detail": "nothing: no provider, telemetry or download is on",
    }
    assert found["reachable"]["state"] == "ok"


PROVIDER = {
    "name": "far",
    "kind": "anthropic",
    "api_key": "canary",
    "models": [{"model": "m", "stands_in_for": ["simulated"], "context_tokens": 1000}],
}


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (
            {"ray": {"address": "10.0.0.5:6379"}, "storage": {"valkey": "unix:///nowhere"}},
            "the Ray cluster 10.0.0.5:6379",
        ),
        ({"storage": {"valkey": "redis://:canary@127.0.0.1:1"}}, "the Valkey server"),
        ({"access": {"database": "postgresql://u:canary@db/x"}}, "the PostgreSQL server"),
        ({"overflow": {"providers": [PROVIDER]}}, "the provider far"),
    ],
)
def test_what_leaves_to_our_own_machines_is_told(
    findings: Look, free_port: int, group: dict[str, Any], words: str
) -> None:
    text = json.dumps({"server": {"port": free_port}, "models": ["simulated"]} | group)
    found = findings(text)["leaves the machine"]
    assert (found["state"], words in found["detail"]) == ("warn", True)
    assert "canary" not in found["detail"]


@pytest.mark.parametrize(
    ("allowed", "state", "words"),
    [
        ([], "ok", "English (en) is read for names; scrubbed requests in any other language"),
        (["zh", "de"], "warn", "may leave all the same: Chinese (zh), German (de);"),
    ],
)
def test_languages_that_leave_are_told(
    findings: Look, free_port: int, allowed: list[str], state: str, words: str
) -> None:
    groups = {"overflow": {"providers": [PROVIDER]}, "privacy": {"allow_languages": allowed}}
    text = json.dumps({"server": {"port": free_port}, "models": ["simulated"]} | groups)
    found = findings(text)["languages"]
    assert (found["state"], words in found["detail"]) == (state, True)


@pytest.mark.parametrize(
    ("group", "state", "words"),
    [
        ({}, "ok", "starts with the server"),
        ({"storage": {"valkey": "redis://:canary@127.0.0.1:1"}}, "warn", "unavailable"),
        ({"ray": {"address": "10.0.0.5:6379"}}, "fail", "storage.valkey is needed"),
    ],
    ids=["embedded", "away", "cluster"],
)
def test_valkey_is_looked_at(
    findings: Look, free_port: int, group: dict[str, Any], state: str, words: str
) -> None:
    text = json.dumps({"server": {"port": free_port}, "models": ["simulated"]} | group)
    found = findings(text, code=int(state == "fail"))["Valkey"]
    assert (found["state"], words in found["detail"]) == (state, True)
    assert "canary" not in found["detail"]


def test_listening_on_every_interface_is_pointed_out(findings: Look, free_port: int) -> None:
    found = findings(simulated(host="0.0.0.0", port=free_port))  # noqa: S104
    assert found["reachable"] == {
        "check": "reachable", "state": "warn", "detail": "listens on 0.0.0.0"
    }  # fmt: skip


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where every request gets these bytes, head and body."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_port_that_our_own_server_uses_is_no_failure(findings: Look) -> None:
    async def look() -> dict[str, Any]:
        async with listening(application()) as port:
            return await asyncio.to_thread(findings, simulated(port=port))

    port = asyncio.run(look())["port"]
    assert (port["state"], port["detail"].endswith(": Ringfence runs here")) == ("ok", True)


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_port_of_our_own_server_that_starts_or_stops_is_no_failure(
    findings: Look, tmp_path: Path, status: int
) -> None:
    write_errors(tmp_path)
    with answering((tmp_path / f"{status}.http").read_bytes()) as taken:
        port = findings(simulated(port=taken))["port"]
    assert port["state"] == "ok"
    assert port["detail"].endswith(": Ringfence starts or stops here")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"alive", b'{"status":"alive"}', b'{"error":"x"}'])
def test_port_of_another_server_is_a_failure(findings: Look, body: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as taken:
        assert findings(simulated(port=taken), code=1)["port"]["state"] == "fail"
