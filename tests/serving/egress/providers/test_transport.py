from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from serving.egress.providers.openai_provider import openai_destination
from serving.egress.providers.provider import (
    Deadlines,
    ProviderBroken,
    ProviderHeadroom,
    ProviderRateLimited,
)
from serving.egress.providers.transport import Connections, Destination, GatedTransport
from tests.serving.egress.calls import (
    KEY,
    Border,
    anthropic_at,
    collect,
    deltas,
    openai_at,
    request,
)
from tests.serving.egress.standin import StandIn
from tests.serving.egress.wire_format import HELLO, named_sse, refuses, sse, streams

WHOLE = streams(sse(*HELLO.openai()))
WHOLE_MESSAGE = streams(named_sse(*HELLO.anthropic()))
CASES = pytest.mark.parametrize(
    ("at", "whole"),
    [(openai_at, WHOLE), (anthropic_at, WHOLE_MESSAGE)],
    ids=["openai", "anthropic"],
)
NO_LIMITS = {"connect": None, "read": None, "write": None, "pool": None}
ENVIRONMENT = {
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "OPENAI_API_KEY": "sk-environment",
    "OPENAI_ORG_ID": "org-environment",
    "OPENAI_PROJECT_ID": "project-environment",
    "OPENAI_CUSTOM_HEADERS": "x-extra: environment\nauthorization: Bearer environment",
    "OPENAI_LOG": "debug",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "ANTHROPIC_API_KEY": "sk-environment",
    "ANTHROPIC_AUTH_TOKEN": "environment",
    "ANTHROPIC_CUSTOM_HEADERS": "x-extra: environment\nx-api-key: environment",
    "ANTHROPIC_LOG": "debug",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


class Forbidden(Exception):
    pass


@CASES
async def test_the_gate_sees_the_very_bytes_that_arrive(at: Any, whole: Any) -> None:
    border = Border()
    async with at(whole) as (server, provider):
        await collect(provider, border=border)

    (departure,) = border.departures
    assert [departure.body] == server.bodies
    assert departure.destination == server.url + server.received[0].target
    assert departure.request_id == "r1"
    assert b"canary-prompt" in departure.body
    assert "canary" not in repr(departure)


@CASES
@pytest.mark.parametrize(
    "forbids", [Forbidden("no"), ValueError("no"), TimeoutError("no"), OSError("no")]
)
async def test_what_the_gate_raises_forbids_and_comes_out_as_it_is(
    at: Any, whole: Any, forbids: Exception
) -> None:
    async with at(whole) as (server, provider):
        with pytest.raises(type(forbids)) as caught:
            await collect(provider, border=Border(forbids))
        assert server.connections == 0

    assert caught.value is forbids


@CASES
async def test_the_gates_time_is_not_the_providers(at: Any, whole: Any) -> None:
    deadlines = Deadlines(first_event_s=0.3, total_s=5.0)
    async with at(whole) as (_, provider):
        chunks, _ = await collect(provider, request(deadlines=deadlines), Border(waits_s=0.5))

    assert deltas(chunks) == "Hello there"


@CASES
async def test_nothing_arrives_that_did_not_pass_the_gate_whoever_hangs_up(
    at: Any, whole: Any
) -> None:
    border = Border()
    patience_s = (0.002, 0.02, 0.1, 10.0)
    async with at(whole) as (server, provider):

        async def call(number: int) -> None:
            body = {"messages": [{"role": "user", "content": f"number {number}"}]}
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s[number % 4]):
                    await collect(provider, request(body, deadlines=Deadlines()), border)

        await asyncio.gather(*map(call, range(100)))

    departed = [departure.body for departure in border.departures]
    assert len(server.bodies) > 10
    assert len(set(departed)) == len(departed)
    assert set(server.bodies) <= set(departed)
    assert len(set(server.bodies)) == len(server.bodies)


@CASES
async def test_no_fact_of_this_machine_is_told(at: Any, whole: Any) -> None:
    async with at(whole) as (server, provider):
        await collect(provider)

    told = server.received[0].headers
    keys = {"authorization"} if at is openai_at else {"x-api-key", "anthropic-version"}
    assert set(told) == keys | {
        "host", "accept", "accept-encoding", "content-type", "content-length", "user-agent"
    }  # fmt: skip
    assert told["accept-encoding"] == "identity"
    assert told["user-agent"] == "ringfence"


@CASES
async def test_no_environment_variable_changes_target_key_or_headers(
    at: Any, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with at(whole) as (server, provider):
        chunks, _ = await collect(provider)

    assert deltas(chunks) == "Hello there"
    told = server.received[0].headers
    assert told.get("authorization", told.get("x-api-key")) in (KEY, f"Bearer {KEY}")
    assert not any("environment" in value for value in told.values())


async def test_what_the_answer_tells_of_limits_is_observed_refused_or_not() -> None:
    border = Border()
    scripts = [
        streams(sse(*HELLO.openai()), x_ratelimit_remaining_requests="3"),
        refuses(429, None, x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="4s"),
    ]
    async with openai_at(*scripts) as (_, provider):
        await collect(provider, border=border)
        with pytest.raises(ProviderRateLimited) as caught:
            await collect(provider, border=border)

    assert border.told == [
        ProviderHeadroom(requests=3),
        ProviderHeadroom(tokens=0, tokens_reset_s=4.0),
    ]
    assert caught.value.retry_after_s == 4.0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{other}/v1/x",
        "http://localhost:{port}/v1/x",
        "https://127.0.0.1:{port}/v1/x",
        "http://127.0.0.1:{port}/v10/x",
        "http://127.0.0.1:{port}/v1",
        "http://user@127.0.0.1:{port}/v1/x",
    ],
)
async def test_another_place_is_refused_before_a_socket_is_opened(url: str) -> None:
    async with StandIn(WHOLE) as server, StandIn(WHOLE) as other:
        outlet = Connections(Destination(server.url + "/v1"))
        border = Border()
        door = GatedTransport(
            outlet, request_id="r1", gate=border.gate, observe=border.told.append,
            received=border.receive, departed=lambda: None,
        )  # fmt: skip
        place = url.format(port=server.port, other=other.port)
        departing = httpx2.Request("POST", place, content=b"x", extensions={"timeout": NO_LIMITS})
        with pytest.raises(ProviderBroken, match="another place"):
            await door.handle_async_request(departing)
        assert server.connections == other.connections == 0

    assert border.departures == []


async def test_a_door_lets_one_request_out() -> None:
    async with StandIn(WHOLE) as server:
        outlet = Connections(Destination(server.url + "/v1"))
        border = Border()
        door = GatedTransport(
            outlet, request_id="r1", gate=border.gate, observe=border.told.append,
            received=border.receive, departed=lambda: None,
        )  # fmt: skip
        departing = httpx2.Request(
            "POST", server.url + "/v1/x", content=b"x", extensions={"timeout": NO_LIMITS}
        )
        response = await door.handle_async_request(departing)
        await response.aclose()
        with pytest.raises(ProviderBroken):
            await door.handle_async_request(departing)
        await outlet.aclose()

    assert len(border.departures) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org", "http://10.0.0.1/v1", "ftp://127.0.0.1", "127.0.0.1",
        "https://user:secret@example.org", "https://example.org/?a=b", "https://",
    ],
)  # fmt: skip
def test_a_destination_is_https_or_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        Destination(url)

    assert "secret" not in str(caught.value)


def test_a_destination_may_be_http_elsewhere_when_that_is_allowed() -> None:
    assert Destination("http://10.0.0.1/v1", allow_http=True).url == "http://10.0.0.1/v1"
    assert Destination("http://localhost/v1").url == "http://localhost/v1"
    assert Destination("http://[::1]/v1").url == "http://[::1]/v1"


def test_a_destination_does_not_show_its_key() -> None:
    assert KEY not in repr(openai_destination(KEY))
