"""Money and tokens are counted once, whichever process crashes.

Runs the whole application on a simulated engine. While clients send requests and disconnect, a
gateway and Valkey are killed and the database is locked; afterwards, all figures must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.backend import Backend, processes_of, served, stop, wait_until_ready

CONFIGURATION = """
models:
  - id: simulated
    simulation: {step_base_ms: 20}
    price: {input_per_million: 1000, output_per_million: 2000}
    max_queued_requests: 500
server:
  gateway_replicas: 2
admission:
  per_key: {tokens_per_minute: 100000000, concurrent_requests: 1000}
  per_tenant: {budget_day: 1000000, budget_total: 1000000}
"""
MAX_LEAK_S = 60


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with served(tmp_path_factory.mktemp("books"), CONFIGURATION) as here:
        yield here


@dataclass(slots=True)
class Told:
    """What clients received: usage of complete answers, and how the others ended."""

    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)


class Admin:
    """The admin API as an operator uses it."""

    def __init__(self, backend: Backend) -> None:
        key = (backend.home / "admin-key").read_text().strip()
        self.client = httpx.Client(
            base_url=f"{backend.url}/admin/v1",
            headers={"authorization": f"Bearer {key}"},
            timeout=120,
        )

    def get(self, path: str) -> Any:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        response = self.client.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def new_key(self, tenant: str) -> tuple[str, str]:
        """Create a key of a new tenant; return it with its id."""
        self.send("POST", "/tenants", {"name": tenant})
        issued = self.send("POST", "/keys", {"tenant": tenant, "name": "ci"})
        return issued["key"], issued["id"]

    def usage(self, tenant: str) -> dict[str, Any]:
        rows = self.get(f"/usage?tenant={tenant}&group_by=tenant")["data"]
        assert len(rows) == 1, rows
        row: dict[str, Any] = rows[0]
        return row


@pytest.fixture
def admin(backend: Backend) -> Iterator[Admin]:
    managing = Admin(backend)
    with managing.client:
        yield managing


async def send(client: httpx.AsyncClient, told: Told, chance: random.Random) -> None:
    """Send one request, streamed or not; one client in five disconnects during the stream."""
    body = {
        "model": "simulated",
        "max_tokens": chance.randint(1, 30),
        "messages": [{"role": "user", "content": "x" * chance.randint(1, 200)}],
    }
    stream, hangs_up = chance.random() < 0.6, chance.random() < 0.2
    try:
        if not stream:
            response = await client.post("/v1/chat/completions", json=body)
            note(told, response, response.json().get("usage"))
            return
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await read(told, response, hangs_up=hangs_up)
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        told.other.append(type(error).__name__)


async def read(told: Told, response: httpx.Response, *, hangs_up: bool) -> None:
    if response.status_code != 200:
        note(told, response, None)
        return
    usage, events = None, 0
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            note(told, response, usage)
            return
        if line.startswith("data: {"):
            usage = json.loads(line[6:]).get("usage") or usage
            events += 1
        if hangs_up and events == 3:
            told.other.append("hung up")
            return
    told.other.append("broke off")


def note(told: Told, response: httpx.Response, usage: dict[str, int] | None) -> None:
    if response.status_code == 200 and usage is not None:
        told.usage[response.headers["x-request-id"]] = usage
    else:
        told.other.append(str(response.status_code))


async def load(backend: Backend, key: str, requests: int, *, at_once: int = 24) -> Told:
    told, chance = Told(), random.Random(requests)  # noqa: S311  To be the same each time.
    places = asyncio.Semaphore(at_once)

    async def one(client: httpx.AsyncClient) -> None:
        async with places:
            await send(client, told, chance)
            await asyncio.sleep(0.01)

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=backend.url, headers=headers, timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(requests)))
    return told


def rows_of(backend: Backend, tenant: str) -> dict[str, list[tuple[int, int, str]]]:
    """Return prompt tokens, completion tokens and outcome of every attempt, by request."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    with contextlib.closing(sqlite3.connect(backend.home / "ringfence.db", timeout=30)) as opened:
        for request, *row in opened.execute(
            "SELECT request_id, prompt_tokens, completion_tokens, outcome FROM usage_attempts "
            "WHERE tenant = ?",
            (tenant,),
        ):
            found.setdefault(request, []).append(tuple(row))
    return found


def assert_balanced(backend: Backend, admin: Admin, tenant: str, told: Told) -> None:
    """Compare the ledger with what clients received, and the budgets with the ledger."""
    summed = admin.usage(tenant)
    rows = rows_of(backend, tenant)
    for request, usage in told.usage.items():
        expected = (usage["prompt_tokens"], usage["completion_tokens"], "ok")
        assert rows.get(request) == [expected], request
    assert summed["requests"] == sum(map(len, rows.values()))
    assert summed["prompt_tokens"] == sum(row[0] for found in rows.values() for row in found)
    assert settled(admin, tenant, summed["cost"])


def settled(admin: Admin, tenant: str, cost: str) -> bool:
    """Whether budgets soon hold no reservations, and their spending equals the ledger's."""
    deadline = time.monotonic() + MAX_LEAK_S
    while True:
        budgets = admin.get(f"/budgets/tenant/{tenant}")
        shown = [(budgets[window]["spent"], budgets[window]["reserved"]) for window in ("day",)]
        if all(float(reserved) == 0 for _, reserved in shown):
            assert {float(spent) for spent, _ in shown} == {float(cost)}
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def own_budget(admin: Admin, tenant: str) -> str:
    key, _ = admin.new_key(tenant)
    admin.send("PUT", f"/budgets/tenant/{tenant}", {"day": 1000})
    time.sleep(2.5)  # Gateways look limits up again every two seconds.
    return key


async def test_books_balance_under_load_and_disconnects(backend: Backend, admin: Admin) -> None:
    key = own_budget(admin, "calm")
    told = await load(backend, key, 200)
    assert len(told.usage) > 100
    assert set(told.other) <= {"hung up"}
    assert_balanced(backend, admin, "calm", told)


async def test_books_balance_after_a_gateway_was_killed(backend: Backend, admin: Admin) -> None:
    key = own_budget(admin, "killed")
    loading = asyncio.create_task(load(backend, key, 300))
    await asyncio.sleep(2)
    gateways = processes_of(backend.process, "ServeReplica:ringfence:Gateway")
    assert len(gateways) == 2
    gateways[0].kill()
    told = await loading
    wait_until_ready(backend.process, backend.url, backend.log)
    assert len(told.usage) > 20
    assert_balanced(backend, admin, "killed", told)


@pytest.mark.full
async def test_books_balance_after_valkey_was_killed_under_load(
    backend: Backend, admin: Admin
) -> None:
    key = own_budget(admin, "valkey")
    loading = asyncio.create_task(load(backend, key, 300))
    for _ in range(2):
        await asyncio.sleep(1.5)
        (server,) = processes_of(backend.process, "valkey-server")
        server.send_signal(signal.SIGKILL)
    told = await loading
    assert set(told.other) <= {"hung up"}  # It was back before anybody had to be refused.
    assert_balanced(backend, admin, "valkey", told)


@pytest.mark.full
async def test_books_balance_after_the_database_was_locked(backend: Backend, admin: Admin) -> None:
    key = own_budget(admin, "locked")
    with contextlib.closing(sqlite3.connect(backend.home / "ringfence.db")) as opened:
        loading = asyncio.create_task(load(backend, key, 150))
        await asyncio.sleep(0.5)
        opened.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(3)
        opened.execute("ROLLBACK")
    told = await loading
    assert set(told.other) <= {"hung up"}
    assert_balanced(backend, admin, "locked", told)


async def test_two_gateways_spend_the_last_of_a_budget_once(backend: Backend, admin: Admin) -> None:
    key, _ = admin.new_key("poor")
    admin.send("PUT", "/budgets/tenant/poor", {"total": 1, "day": 1})
    await asyncio.sleep(2.5)
    told = await load(backend, key, 200, at_once=200)
    spent = float(admin.usage("poor")["cost"])
    assert 0.5 < spent <= 1
    assert set(told.other) <= {"429", "hung up"}
    assert_balanced(backend, admin, "poor", told)


async def test_two_gateways_share_a_limit_exactly(backend: Backend, admin: Admin) -> None:
    key, key_id = admin.new_key("shared")
    admin.send("PUT", f"/limits/key/{key_id}", {"requests_per_minute": 37})
    await asyncio.sleep(2.5)
    told = await load(backend, key, 120, at_once=60)
    assert told.other.count("429") == 120 - 37


async def test_repeats_to_two_gateways_run_once(backend: Backend, admin: Admin) -> None:
    key = own_budget(admin, "repeats")
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "one-and-the-same"}
    body = {
        "model": "simulated", "max_tokens": 30, "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=backend.url, headers=headers, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body) for _ in range(20))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert admin.usage("repeats")["requests"] == 1


def test_operator_sees_usage_on_the_command_line(backend: Backend) -> None:
    own = {k: v for k, v in os.environ.items() if not k.startswith("RINGFENCE_")}
    port = backend.url.rpartition(":")[2]
    told = subprocess.run(
        [sys.executable, "-m", "serving.cli", "usage", "--by", "tenant", "--json"],
        env=own | {"RINGFENCE_HOME": str(backend.home), "RINGFENCE_PORT": port},
        capture_output=True,
        check=True,
        timeout=120,
    )
    tenants = {row["tenant"] for row in json.loads(told.stdout)["data"]}
    assert {"calm", "killed", "poor"} <= tenants


def test_nothing_is_left_after_the_stop(backend: Backend) -> None:
    children = psutil.Process(backend.process.pid).children(recursive=True)
    socket = Path(backend.home / "valkey" / "server.sock")
    assert any("valkey-server" in child.name() for child in children)
    stop(backend.process)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [process.name() for process in alive] == []
    assert not socket.exists()
