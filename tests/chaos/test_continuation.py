"""Replicas killed during streams: clients with `on_failure: continue` notice nothing.

Runs the whole application by its public command, with two replicas of a simulated model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.end_to_end.backend import Backend, processes_of, served

CONFIGURATION = """
models:
  - id: simulated
    simulation: {step_base_ms: 40}
    replicas: 2
"""
STREAMS = 8


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with served(tmp_path_factory.mktemp("continuation"), CONFIGURATION) as here:
        yield here


def replicas(backend: Backend) -> list[psutil.Process]:
    return processes_of(backend.process, "Engine:simulated")


@dataclass
class Stream:
    """The progress of one client's answer."""

    number: int
    text: str = ""
    ids: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    done: bool = False
    errors: list[Any] = field(default_factory=list)

    async def run(self, client: httpx.AsyncClient, request_id: str, **more: Any) -> None:
        body = {
            "model": "simulated",
            "messages": [{"role": "user", "content": f"Tell me about number {self.number}."}],
            "stream": True,
            "max_tokens": 100,
            "ignore_eos": True,
        } | more
        asking = client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
        )
        async with asking as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                self._take(line)

    def _take(self, line: str) -> None:
        self.done = self.done or line == "data: [DONE]"
        if not line.startswith("data: {"):
            return
        event = json.loads(line[6:])
        self.errors += [event["error"]] if "error" in event else []
        self.ids |= {event["id"]} if "id" in event else set()
        for choice in event.get("choices", ()):
            self.text += choice["delta"].get("content") or ""
            self.reasons += [choice["finish_reason"]] if choice["finish_reason"] else []


async def together(backend: Backend, name: str, *, kill: int, **more: Any) -> list[Stream]:
    """Run several streams at once, and kill that many replicas once all have begun."""
    streams = [Stream(number) for number in range(STREAMS)]
    async with httpx.AsyncClient(
        base_url=backend.url, headers=backend.headers, timeout=90
    ) as client:
        asking = [
            asyncio.create_task(one.run(client, f"{name}-{one.number}", **more)) for one in streams
        ]
        while kill and not all(len(one.text) > 60 for one in streams):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for process in replicas(backend)[:kill]:
            process.kill()
        await asyncio.gather(*asking)
    return streams


async def attempts(backend: Backend, request_id: str) -> int:
    async with httpx.AsyncClient(base_url=backend.url, headers=backend.headers) as client:
        answer = await client.get(f"/v1/requests/{request_id}")
        return len(answer.json()["attempts"])


@pytest.fixture(scope="module")
def undisturbed(backend: Backend) -> list[str]:
    return [one.text for one in asyncio.run(together(backend, "whole", kill=0))]


@pytest.mark.full
@pytest.mark.parametrize("kill", [1, 2])
async def test_answer_goes_on_when_replicas_are_killed(
    backend: Backend, undisturbed: list[str], kill: int
) -> None:
    assert len(replicas(backend)) == 2
    streams = await together(backend, f"killed-{kill}", kill=kill, on_failure="continue")
    assert [one.text for one in streams] == undisturbed
    assert [(one.done, one.errors, one.reasons, len(one.ids)) for one in streams] == [
        (True, [], ["length"], 1)
    ] * STREAMS
    await asyncio.sleep(2)  # For the last rows.
    tried = [await attempts(backend, f"killed-{kill}-{number}") for number in range(STREAMS)]
    assert max(tried) > 1
    await until_two(backend)


async def until_two(backend: Backend) -> None:
    for _ in range(600):
        if len(replicas(backend)) == 2:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the replicas did not come back")
