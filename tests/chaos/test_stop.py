"""A planned stop: every admitted client gets a whole answer or an error, and everything is written.

Runs the whole application by its public command in its own session, as on a terminal, where a
signal reaches each process of the foreground group.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.valkey import PREFIX, Valkey
from tests.end_to_end.backend import Backend, served

DRAIN_S = 4
CONFIGURATION = f"""
models:
  - id: simulated
    max_ongoing_requests: 100
    simulation: {{step_base_ms: 50}}
server:
  gateway_replicas: 2
  drain_s: {DRAIN_S}
"""
STOP_DEADLINE_S = 60
SHORT, LONG = 30, 900
"""Tokens of an answer that ends during the drain, and of one that does not."""


def on_a_terminal(home: Path) -> AbstractContextManager[Backend]:
    """A backend that leads its own process group, as if a shell had started it."""
    return served(home, CONFIGURATION, folder=home.parent, own_session=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one client received, up to the end of a body that was not cut."""

    request_id: str
    status: int
    usage: dict[str, int] | None
    error: str | None
    ended: bool


async def ask(client: httpx.AsyncClient, tokens: int, *, stream: bool) -> Answer:
    body: dict[str, Any] = {
        "model": "simulated",
        "max_tokens": tokens,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    if not stream:
        answer = await client.post("/v1/chat/completions", json=body)
        return told(answer, [answer.json()], ended=True)
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines: list[str] = []
        if answer.status_code != 200:
            return told(answer, [orjson.loads(await answer.aread())], ended=True)
        async for line in answer.aiter_lines():
            lines += [line.removeprefix("data: ")] if line.startswith("data: ") else []
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    return told(answer, events, ended=lines[-1] == "[DONE]")


async def held(backend: Backend, requests: int) -> None:
    """Return once Valkey has this number of running requests."""
    valkey = Valkey.open(EmbeddedValkey(backend.home).url, timeout_s=5)
    try:
        async with asyncio.timeout(20):
            while True:
                gateways = await valkey.command("KEYS", f"{PREFIX}held:*")
                if sum([await valkey.command("HLEN", one) for one in gateways]) == requests:
                    return
                await asyncio.sleep(0.05)
    finally:
        await valkey.close()


def told(answer: httpx.Response, events: list[dict[str, Any]], *, ended: bool) -> Answer:
    usage = next((event["usage"] for event in events if event.get("usage")), None)
    error = next((event["error"]["code"] for event in events if event.get("error")), None)
    return Answer(answer.headers["x-request-id"], answer.status_code, usage, error, ended)


def rows_of(home: Path) -> dict[str, list[tuple[str, int, int]]]:
    """Return outcome, prompt and completion tokens of every attempt, by request."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    with contextlib.closing(sqlite3.connect(home / "ringfence.db")) as opened:
        for request_id, *row in opened.execute(
            "SELECT request_id, outcome, prompt_tokens, completion_tokens FROM usage_attempts"
        ):
            found.setdefault(request_id, []).append(tuple(row))
    return found


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.full),
        pytest.param(signal.SIGHUP, marks=pytest.mark.full),
    ],
)
async def test_stop_gives_every_request_its_end_and_a_row(
    tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with on_a_terminal(home) as backend:
        started = psutil.Process(backend.process.pid).children(recursive=True)
        kinds = [(SHORT, True), (LONG, True), (SHORT, False), (LONG, False)]
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=backend.url, headers=backend.headers, timeout=60, limits=limits
        ) as client:
            asking = [
                asyncio.create_task(ask(client, tokens, stream=stream))
                for tokens, stream in kinds
                for _ in range(10)
            ]
            await held(backend, len(asking))
            os.killpg(backend.process.pid, number)
            late = await refused_late(client)
            answers = await asyncio.gather(*asking)
        assert await asyncio.to_thread(backend.process.wait, STOP_DEADLINE_S) == 0
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
    assert late.headers["retry-after"] == "5"
    for (tokens, stream), at in zip(kinds, range(0, 40, 10), strict=True):
        for answer in answers[at : at + 10]:
            assert answer.error == (None if tokens == SHORT else "server_stopping")
            assert answer.status == (503 if tokens == LONG and not stream else 200)
            assert answer.ended == (tokens == SHORT or not stream)
    rows = rows_of(home)
    for answer in answers:
        [(outcome, prompt, completion)] = rows[answer.request_id]
        assert outcome == (answer.error or "ok")
        assert completion > 0
        if answer.usage is not None:
            assert (prompt, completion) == (
                answer.usage["prompt_tokens"],
                answer.usage["completion_tokens"],
            )


async def refused_late(client: httpx.AsyncClient) -> httpx.Response:
    """Return the refusal of a request that arrives during the drain."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        answer = await client.get("/v1/models")
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "server_stopping"
            assert (await client.get("/ready")).json()["status"] == "stopping"
            assert (await client.get("/health")).status_code == 200
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("it went on to take requests")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A separate file system that can be filled quickly."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill all remaining space; returns the file that fills it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@pytest.mark.full
async def test_stop_on_a_full_disk_tells_what_it_keeps_for_the_next_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "home") as home:
        with on_a_terminal(home) as backend:
            async with httpx.AsyncClient(
                base_url=backend.url, headers=backend.headers, timeout=60
            ) as client:
                await asyncio.gather(*(ask(client, 5, stream=False) for _ in range(20)))
                ballast = fill(home)
                asked = await asyncio.gather(
                    *(ask(client, 5, stream=bool(number % 2)) for number in range(50))
                )
            answers = [answer for answer in asked if answer.status == 200]
            assert answers
            os.killpg(backend.process.pid, signal.SIGINT)
            assert await asyncio.to_thread(backend.process.wait, STOP_DEADLINE_S) == 1
        shown = (tmp_path / "serve.log").read_text()
        counts = re.findall(r"(\d+) usage rows could not be written to the database", shown)
        ballast.unlink()
        before = rows_of(home)
        missing = [answer for answer in answers if answer.request_id not in before]
        assert missing
        assert sum(map(int, counts)) >= len(missing)
        with on_a_terminal(home):
            pass
        rows = rows_of(home)
    for answer in answers:
        assert answer.usage is not None
        expected = ("ok", answer.usage["prompt_tokens"], answer.usage["completion_tokens"])
        assert rows[answer.request_id] == [expected]
