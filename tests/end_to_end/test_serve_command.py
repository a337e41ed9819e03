"""`ringfence serve` for a new user: first key, output, Ctrl-C, a dying engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.running.ports import free_port
from tests.end_to_end.backend import START_DEADLINE_S, Backend, served

CONFIGURATION = """
models:
  - id: simulated
    simulation: {step_base_ms: 50}
"""


def command(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("RINGFENCE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "serving.cli", *arguments],
        env=own | {"RINGFENCE_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@dataclass(frozen=True)
class Greeted(Backend):
    """A backend, and the status of a chat sent as soon as the backend was ready."""

    first_status: int


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Greeted]:
    """Run a backend with only the simulated engine, and without a key in the environment."""
    statuses: list[int] = []

    def greeted(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while "curl" not in log.read_text() and process.poll() is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        key = (log.parent / "first-key").read_text().strip()
        body = {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"authorization": f"Bearer {key}"}
        first = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        statuses.append(first.status_code)

    with served(tmp_path_factory.mktemp("small"), CONFIGURATION, ready=greeted) as here:
        yield Greeted(here.url, here.key, here.home, here.process, here.log, statuses[0])


def test_serve_prints_url_key_and_a_curl_line(small: Backend) -> None:
    shown = small.log.read_text()
    assert f"{small.url}/v1" in shown
    assert small.key in shown
    assert f"curl -N {small.url}/v1/chat/completions" in shown


def test_first_request_after_the_greeting_is_answered(small: Greeted) -> None:
    assert small.first_status == 200


def test_serve_keeps_the_first_key_in_a_private_file(small: Backend) -> None:
    for name in ("first-key", "secret", "ringfence.db"):
        assert (small.home / name).stat().st_mode & 0o777 == 0o600


def test_serve_shows_phases_with_their_time(small: Backend) -> None:
    shown = small.log.read_text()
    for phase in ("Starting Ray", "Deploying the application", "Loading simulated"):
        assert any(
            line.startswith("ok ") and phase in line and line.endswith(" s")
            for line in shown.splitlines()
        )


def test_printed_curl_line_works_as_it_is(small: Backend) -> None:
    line = small.log.read_text().split("\ncurl", 1)[1].split("\n\n", 1)[0]
    done = subprocess.run(
        ["/bin/sh", "-c", f"curl -s{line}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.endswith("data: [DONE]\n\n")


def test_chat_command_streams_an_answer(small: Backend) -> None:
    port = small.url.rsplit(":", 1)[1]
    file = str(small.home / "ringfence.yaml")
    asked = command(small.home, "chat", "Hi", "--max-tokens", "40", "-c", file, RINGFENCE_PORT=port)
    output, _ = asked.communicate(timeout=120)
    assert asked.returncode == 0, output
    assert output.startswith(b"[simulated]")


def test_second_server_on_the_same_port_says_so(small: Backend) -> None:
    port = small.url.rsplit(":", 1)[1]
    second = command(small.home, "serve", "--port", port)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 1
    assert b"cannot listen on 127.0.0.1:" + port.encode() in output


def test_model_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "ringfence.yaml"
    file.write_text("models: [{id: mine, source: /no/such/directory}]")
    started = command(tmp_path, "serve", "-c", str(file), "--port", str(free_port()))
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 1
    assert b"/no/such/directory" in output
    assert b"Starting Ray" not in output


def test_engine_killed_mid_stream_ends_in_an_error_event(small: Backend) -> None:
    body = {
        "model": "simulated",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 400,
        "stream": True,
        "ignore_eos": True,
    }
    engine = next(
        process
        for process in psutil.Process(small.process.pid).children(recursive=True)
        if "ServeReplica:ringfence:Engine" in " ".join(process.cmdline())
    )
    headers = {"authorization": f"Bearer {small.key}"}
    with httpx.stream(
        "POST", f"{small.url}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as answer:
        events = answer.iter_lines()
        assert next(events).startswith("data: {")
        engine.kill()
        rest = [line for line in events if line]
    assert "[DONE]" not in rest[-1]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "model_unavailable"


def test_ctrl_c_stops_every_process_that_was_started(small: Backend) -> None:
    started = psutil.Process(small.process.pid).children(recursive=True)
    assert len(started) > 5
    small.process.send_signal(signal.SIGINT)
    assert small.process.wait(60) == 0
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
