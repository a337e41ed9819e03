"""Behaviour that only the running stack shows: HAProxy, Ray, processes, ports and logs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.end_to_end.backend import EMBEDDER, MODEL, Backend

pytestmark = pytest.mark.engine

CANARY = "xylophone-quartz-canary-7731"


def processes(backend: Backend) -> list[psutil.Process]:
    return psutil.Process(backend.process.pid).children(recursive=True)


def named(backend: Backend, part: str) -> psutil.Process:
    return next(p for p in processes(backend) if part in " ".join(p.cmdline()) or part in p.name())


def test_only_loopback_is_listened_on(backend: Backend) -> None:
    addresses = {
        connection.laddr.ip
        for process in processes(backend)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_nothing_connects_to_the_outside(backend: Backend, http: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    remotes = {
        connection.raddr.ip
        for process in processes(backend)
        for connection in process.net_connections("inet")
        if connection.raddr
    }
    assert remotes <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_gateway_holds_no_model_library(backend: Backend) -> None:
    gateway = named(backend, "ServeReplica:ringfence:Gateway")
    libraries = {Path(row.path).name for row in gateway.memory_maps()}
    assert not any(name.startswith(("libtorch", "_C.")) for name in libraries)


def test_detokenize_refuses_an_id_outside_the_vocabulary(http: httpx.Client) -> None:
    answer = http.post("/detokenize", json={"model": MODEL, "tokens": [10**9]})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_embedding_longer_than_the_model_takes_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"model": EMBEDDER, "input": "word " * 1000})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_simulated_model_is_labelled_wherever_it_shows(http: httpx.Client) -> None:
    card = http.get("/v1/models/simulated").json()
    assert card["simulated"] is True
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"].startswith("[simulated]")


@pytest.mark.parametrize("path", ["/", "/-/routes", "/docs", "/openapi.json", "/stats", "/v2/x"])
def test_unknown_paths_have_the_envelope(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    "path", ["/invocations", "/pause", "/v1/load_lora_adapter", "/metrics/engine", "/server_info"]
)
def test_engine_paths_are_not_reachable(http: httpx.Client, path: str) -> None:
    assert http.post(path, json={}).status_code == 404


def test_body_sent_a_byte_at_a_time_ends_at_the_deadline(backend: Backend) -> None:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {backend.key}\r\n"
        "Content-Length: 5000\r\n\r\n"
    )
    with socket.create_connection(backend.address, timeout=20) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.2)
        answer = b""
        for _ in range(300):  # 60 s, of which the deadline is two; the whole body takes longer.
            if b"}}" in answer:
                break
            try:
                connection.sendall(b" ")
                answer += connection.recv(65536)
            except TimeoutError:
                continue
    assert b" 408 " in answer.splitlines()[0]
    assert b'"code":"request_timeout"' in answer


def test_request_that_is_not_http_is_refused_without_reaching_the_gateway(
    backend: Backend,
) -> None:
    with socket.create_connection(backend.address, timeout=10) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"uvicorn" not in answer


def test_client_cannot_tell_ray_to_ignore_hang_ups_or_to_time_out(http: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    headers = {"x-request-timeout-seconds": "0.001", "x-request-disconnect-disabled": "?1"}
    assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200


def test_prompt_is_in_no_log(backend: Backend, http: httpx.Client) -> None:
    for change in ({}, {"stream": True}, {"max_tokens": 10**6}, {"logit_bias": {"99999999": 1}}):
        body = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}
        http.post("/v1/chat/completions", json=body | change)
    http.post("/v1/completions", json={"model": MODEL, "prompt": CANARY, "max_tokens": 2})
    http.post("/v1/embeddings", json={"model": EMBEDDER, "input": CANARY})
    http.post("/tokenize", json={"model": MODEL, "prompt": CANARY})
    time.sleep(1)
    session = ray_session(backend)
    files = [path for path in session.rglob("*") if path.is_file() and path.stat().st_size < 2**27]
    leaks = [str(p) for p in [*files, backend.log] if CANARY.encode() in p.read_bytes()]
    assert leaks == []
    assert CANARY not in http.get("/metrics").text


def ray_session(backend: Backend) -> Path:
    """Return Ray's session folder of this backend, from the raylet's command line."""
    arguments = " ".join(named(backend, "raylet").cmdline()).split()
    socket_name = next(a.split("=", 1)[1] for a in arguments if "raylet_socket_name=" in a)
    return Path(socket_name).parents[1]


def test_key_made_and_revoked_by_the_command_takes_effect_at_once(
    backend: Backend, home: Path
) -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "serving.cli", "keys", *arguments],
            env={"RINGFENCE_HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    def status(key: str) -> int:
        return httpx.get(
            f"{backend.url}/v1/models", headers={"authorization": f"Bearer {key}"}
        ).status_code

    name = f"ci-{time.time_ns()}"
    issued = json.loads(command("create", "--tenant", "acme", "--name", name, "--json"))
    assert status(issued["key"]) == 200
    command("revoke", issued["id"])
    assert status(issued["key"]) == 401
