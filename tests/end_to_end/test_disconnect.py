"""A client that goes away frees the engine's slot, in every phase of its request.

The engine runs four requests at once (see `backend.CONFIGURATION`). When all four slots are taken
by clients that then hang up, a new request can only start once a slot is free: its time to first
token is the proof, taken from the real engine. It is compared with what the abandoned work would
still have taken, by steps that were timed on this machine a moment before.
"""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest

from tests.end_to_end.backend import MODEL, SLOTS, Backend

pytestmark = pytest.mark.engine

ANSWER_TOKENS = 1500
PROMPT_WORDS = 1800
STEP_WORDS = 200
"""Of 256 tokens that a step of the engine has room for."""


def send(backend: Backend, body: dict[str, object]) -> socket.socket:
    """Send a chat request on a new socket without reading the answer."""
    content = json.dumps({"model": MODEL, "temperature": 0, "ignore_eos": True} | body).encode()
    connection = socket.create_connection(backend.address, timeout=60)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {backend.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def long_answer(**more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Go on."}], "max_tokens": ANSWER_TOKENS} | more


def first_token_s(backend: Backend) -> float:
    """Return the time to first token of a short request."""
    started = time.monotonic()
    body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    answer = httpx.post(
        f"{backend.url}/v1/chat/completions", json=body, headers=backend.headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return time.monotonic() - started


def settle(backend: Backend) -> float:
    """Return the best of three times to first token on the idle engine, after warm-up."""
    return min(first_token_s(backend) for _ in range(3))


@pytest.fixture
def decode_s(backend: Backend) -> float:
    """What a whole long answer takes on an engine that is full, by the first of its tokens."""
    settle(backend)
    taken = [send(backend, long_answer(stream=True)) for _ in range(SLOTS)]
    read_events(taken[0], 5)
    started = time.monotonic()
    events = read_events(taken[0], 40)
    step_s = (time.monotonic() - started) / events
    for connection in taken:
        connection.close()
    return ANSWER_TOKENS * step_s


def read_events(connection: socket.socket, count: int) -> int:
    """Read until so many events are there or more; how many."""
    found = 0
    while found < count:
        piece = connection.recv(65536)
        assert piece, "the stream ended"
        found += piece.count(b"data: ")
    return found


@pytest.fixture
def prefill_s(backend: Backend) -> float:
    """What the long prompts of four requests take, by one that fills a step."""
    idle_s = settle(backend)
    prompt = f"{time.monotonic_ns()} " + "word " * STEP_WORDS
    body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": prompt}]}
    started = time.monotonic()
    httpx.post(f"{backend.url}/v1/chat/completions", json=body, headers=backend.headers, timeout=60)
    step_s = max(time.monotonic() - started, idle_s)
    return SLOTS * PROMPT_WORDS / STEP_WORDS * step_s


def hang_up_and_measure(backend: Backend, connections: list[socket.socket]) -> float:
    for connection in connections:
        connection.close()
    return first_token_s(backend)


def test_hang_up_mid_stream_frees_the_slot(backend: Backend, decode_s: float) -> None:
    settle(backend)
    taken = [send(backend, long_answer(stream=True)) for _ in range(SLOTS)]
    for connection in taken:
        assert b"200 OK" in connection.recv(4096)
    assert hang_up_and_measure(backend, taken) < decode_s / 4


def test_hang_up_of_an_unstreamed_request_frees_the_slot(backend: Backend, decode_s: float) -> None:
    settle(backend)
    taken = [send(backend, long_answer()) for _ in range(SLOTS)]
    time.sleep(1)
    assert hang_up_and_measure(backend, taken) < decode_s / 4


def test_hang_up_during_prefill_frees_the_slot(backend: Backend, prefill_s: float) -> None:
    settle(backend)
    prompts = [f"{i} " + "word " * PROMPT_WORDS for i in range(SLOTS)]
    taken = [
        send(
            backend,
            long_answer(stream=True, max_tokens=100, messages=[{"role": "user", "content": p}]),
        )
        for p in prompts
    ]
    time.sleep(0.1)  # Prefill of 7,000 tokens takes seconds here.
    assert hang_up_and_measure(backend, taken) < prefill_s / 2


def test_hang_up_in_the_queue_never_reaches_the_engine(backend: Backend, decode_s: float) -> None:
    settle(backend)
    taken = [send(backend, long_answer(stream=True)) for _ in range(SLOTS)]
    for connection in taken:
        assert b"200 OK" in connection.recv(4096)
    queued = [send(backend, long_answer(stream=True)) for _ in range(SLOTS)]
    time.sleep(0.5)
    for connection in queued:
        connection.close()
    time.sleep(0.2)
    # Were the four still queued, they would take the slots that are freed now.
    assert hang_up_and_measure(backend, taken) < decode_s / 4


def test_full_queue_is_refused_with_503_and_when_to_retry(backend: Backend) -> None:
    taken = [send(backend, long_answer(stream=True)) for _ in range(SLOTS)]
    for connection in taken:
        assert b"200 OK" in connection.recv(4096)
    waiting = [send(backend, long_answer(stream=True)) for _ in range(8)]
    time.sleep(1)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    refused = httpx.post(
        f"{backend.url}/v1/chat/completions", json=body, headers=backend.headers, timeout=60
    )
    for connection in taken + waiting:
        connection.close()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "overloaded"
    assert 1 <= int(refused.headers["retry-after"]) <= 120  # As long as eight answers take.
