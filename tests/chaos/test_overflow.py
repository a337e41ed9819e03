"""Under load, disconnects and kills, whatever leaves is scrubbed and recorded to the byte.

Runs the whole application by its public command, with two gateways, the real detector and a
provider on a socket of this process, which logs requests and sometimes fails.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.backend import RINGFENCE, Backend, environment, processes_of, served
from tests.serving.egress.standin import Behaviour, Received, StandIn, standing
from tests.serving.egress.wire_format import Answer, refuses, sse, streams

CONFIGURATION = """
models:
  - id: simulated
    simulation: {{step_base_ms: 30}}
    max_ongoing_requests: 2
    max_queued_requests: 2
server: {{gateway_replicas: 2}}
admission: {{max_queue_wait_s: 1}}
overflow:
  max_wait_s: 0.2
  resume_wait_s: 0.1
  dwell_s: 1
  max_share: 1
  providers:
    - name: near
      kind: openai
      base_url: {url}/v1
      api_key: sk-theirs
      models: [{{model: large, stands_in_for: [simulated], context_tokens: 100000}}]
"""
TEXT = "Call Jane Roe at +1 212 555 0199 or jane.roe@example.com about 4111 1111 1111 1111."
PERSONAL = (b"Jane", b"Roe", b"555 0199", b"jane.roe", b"4111 1111")
REQUESTS = 120
LABEL = b"ringfence egress body 1"


def echo(received: Received) -> Behaviour:
    """Repeats the user's text, three characters at a time, or fails one time in ten."""
    chance = random.Random(received.body)  # noqa: S311  The same for the same request.
    if chance.random() < 0.05:
        return refuses(500)
    said = received.json()["messages"][-1]["content"]
    pieces = tuple(said[at : at + 3] for at in range(0, len(said), 3))
    answer = sse(*Answer(pieces=pieces).openai())
    if chance.random() < 0.05:
        return streams(answer[: len(answer) // 2], then=["reset"])
    return streams(answer, cuts=range(0, len(answer), 1 + len(answer) // 7), pause_s=0.02)


@pytest.fixture(scope="module")
def provider() -> Iterator[StandIn]:
    with standing(echo) as server:
        yield server


@pytest.fixture(scope="module")
def backend(provider: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    home = tmp_path_factory.mktemp("overflow")
    with served(home, CONFIGURATION.format(url=provider.url)) as here:
        yield here


def command(backend: Backend, *words: str, given: str | None = None) -> str:
    """Run one of our commands, which must succeed; return its output."""
    ended = subprocess.run(
        [*RINGFENCE, *words],
        env=environment(backend.home),
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


def new_key(backend: Backend, privacy: str) -> str:
    admin = (backend.home / "admin-key").read_text().strip()
    answer = httpx.post(
        f"{backend.url}/admin/v1/keys",
        json={"tenant": "default", "name": privacy, "privacy": privacy},
        headers={"authorization": f"Bearer {admin}"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["key"])


async def ask(client: httpx.AsyncClient, key: str, number: int) -> tuple[str, str] | None:
    """Return route and text of one streamed answer; None for a failed or abandoned one."""
    body = {
        "model": "simulated",
        "messages": [{"role": "user", "content": f"{TEXT} No. {number}"}],
        "stream": True,
        "max_tokens": 30,
    }
    headers = {"authorization": f"Bearer {key}", "x-request-id": f"n{number}"}
    said = ""
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        if answer.status_code != 200:
            return None
        async for line in answer.aiter_lines():
            if number % 5 == 0 and said:
                return None  # This one hangs up.
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                for choice in event.get("choices", ()):
                    said += choice["delta"].get("content") or ""
            if line == "data: [DONE]":
                return answer.headers["x-ringfence-route"], said
    return None


async def surge(backend: Backend, key: str) -> list[tuple[str, str] | None]:
    """Run everything at once, and kill one of the gateways meanwhile."""
    async with httpx.AsyncClient(base_url=backend.url, timeout=60) as client:

        async def one(number: int) -> tuple[str, str] | None:
            await asyncio.sleep(number * 0.03)
            try:
                return await ask(client, key, number)
            except httpx.HTTPError:
                return None

        asking = [asyncio.create_task(one(number)) for number in range(REQUESTS)]
        await asyncio.sleep(REQUESTS * 0.03 * 0.6)
        kill_a_gateway(backend)
        return await asyncio.gather(*asking)


def kill_a_gateway(backend: Backend) -> None:
    gateways = processes_of(backend.process, "ServeReplica:ringfence:Gateway")
    assert gateways, "there is no gateway to kill"
    gateways[0].kill()


@pytest.fixture(scope="module")
def told(backend: Backend) -> list[tuple[str, str] | None]:
    answers = asyncio.run(surge(backend, new_key(backend, "scrubbed")))
    time.sleep(3)  # For the last entries, and a checkpoint.
    return answers


@pytest.fixture(scope="module")
def entries(backend: Backend, told: Any) -> list[dict[str, Any]]:
    del told
    lines = command(backend, "ledger", "export").splitlines()
    return [json.loads(line) for line in lines]


def test_surge_is_answered_elsewhere_and_restored(told: list[tuple[str, str] | None]) -> None:
    away = [said for found in told if found for route, said in [found] if route != "local"]
    assert len(away) > REQUESTS / 10
    assert all(said.startswith(TEXT) for said in away)


def test_nothing_personal_was_on_the_wire(provider: StandIn, told: Any) -> None:
    del told
    assert provider.bodies
    for body in provider.bodies:
        assert not [value for value in PERSONAL if value in body]


def test_wire_and_ledger_are_the_same(
    backend: Backend, provider: StandIn, entries: list[dict[str, Any]]
) -> None:
    secret = (backend.home / "secret").read_text().strip().encode()
    key = hmac.digest(secret, LABEL, "sha256")
    wire = sorted(hmac.digest(key, body, "sha256").hex() for body in provider.bodies)
    departures = {one["sequence"]: one for one in entries if one.get("kind") == "departure"}
    ended = {one["departure"]: facts(one) for one in entries if one.get("kind") == "arrival"}
    recorded = sorted(facts(one)["body_hmac"] for one in departures.values())
    missing = list(recorded)
    for body_hmac in wire:
        assert body_hmac in missing, "something left that the ledger does not know"
        missing.remove(body_hmac)
    for one in departures.values():  # What did not get there has a reason.
        if facts(one)["body_hmac"] in missing:
            outcome = ended.get(one["sequence"], {"outcome": "gateway died"})["outcome"]
            assert outcome in ("gateway died", "cancelled", "not_sent", "unreachable")


def facts(entry: dict[str, Any]) -> dict[str, Any]:
    told = entry["facts"]
    found: dict[str, Any] = json.loads(told) if isinstance(told, str) else told
    return found


def test_ledger_verifies_after_it_all(backend: Backend, entries: Any, tmp_path: Path) -> None:
    del entries
    public = tmp_path / "public.pem"
    public.write_text(command(backend, "receipt", "public-key"))
    command(backend, "ledger", "verify", "--public-key", str(public))


def test_receipt_verifies_offline_and_says_what_left(backend: Backend, tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    public.write_text(command(backend, "receipt", "public-key"))
    answer = httpx.post(
        f"{backend.url}/v1/chat/completions",
        json={"model": "simulated", "messages": [{"role": "user", "content": "Hi"}]},
        headers=backend.headers,
        timeout=120,
    )
    token = answer.headers["x-ringfence-receipt"]
    said = command(backend, "receipt", "verify", token, "--public-key", str(public))
    assert "inside" in said


def test_request_is_explained(backend: Backend, told: list[tuple[str, str] | None]) -> None:
    number = next(at for at, found in enumerate(told) if found and found[0] != "local")
    answer = httpx.get(
        f"{backend.url}/v1/requests/n{number}", headers=backend.headers, timeout=30
    ).json()
    assert answer["privacy"] == "scrubbed"
    assert answer["trigger"] in ("queue_wait", "overloaded", "engine_unavailable", "engine_error")
    assert answer["attempts"][-1]["route"] == "overflow:near"
