"""Deadlines: connections, first bytes, pauses, whole answers, and oversized answers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from serving.egress.providers.openai_provider import OpenAIProvider, openai_destination
from serving.egress.providers.provider import (
    NOT_CONNECTED,
    Deadlines,
    ProviderBroken,
    ProviderUnavailable,
)
from serving.egress.providers.transport import AnswerBounds, Connections
from tests.elapsed import Elapsed
from tests.serving.egress.calls import (
    KEY,
    Border,
    collect,
    request,
)
from tests.serving.egress.dialects import ANTHROPIC, Dialect, dialect, failed
from tests.serving.egress.standin import Behaviour, Endless, StandIn, Step
from tests.serving.egress.wire_format import (
    HANGS,
    SILENT,
    chunked,
    named_sse,
    stream_head,
    streams,
)
from tests.serving.live import eventually

__all__ = ["dialect"]

NOT_BEGUN = Deadlines(first_event_s=0.3)
STALLED = Deadlines(idle_s=0.3)
NOT_ENDED = Deadlines(total_s=0.6)


async def test_no_server_is_unavailable() -> None:
    async with StandIn(HANGS) as server:
        url = server.url
    provider = OpenAIProvider(Connections(openai_destination(KEY, url)))

    with pytest.raises(ProviderUnavailable) as caught:
        await collect(provider)

    assert caught.value.code == NOT_CONNECTED


async def test_a_connection_that_is_not_taken_times_out() -> None:
    deadlines = Deadlines(connect_s=0.2, first_event_s=600.0)
    outlet = Connections(openai_destination(KEY, "https://192.0.2.1"))

    with pytest.raises(ProviderUnavailable) as caught:
        await collect(OpenAIProvider(outlet), request(deadlines=deadlines))

    assert caught.value.code == NOT_CONNECTED


async def test_a_name_that_does_not_exist_is_unavailable() -> None:
    outlet = Connections(openai_destination(KEY, "https://no-such-host.invalid"))

    with pytest.raises(ProviderUnavailable) as caught:
        await collect(OpenAIProvider(outlet), request(deadlines=Deadlines(first_event_s=10.0)))

    assert caught.value.code == NOT_CONNECTED


@pytest.mark.parametrize(
    "behaviour",
    [
        HANGS,
        SILENT,
        Behaviour((stream_head(), Endless(chunked(b"d"), 0.02))),
        Behaviour((stream_head(), Endless(chunked(b": keep-alive\n\n"), 0.02))),
    ],
    ids=["no_head", "no_body", "slow_bytes", "comments"],
)
async def test_an_answer_that_does_not_begin_times_out(
    dialect: Dialect, behaviour: Behaviour
) -> None:
    error = await failed(dialect, behaviour, deadlines=NOT_BEGUN)

    assert type(error) is ProviderUnavailable
    assert error.code == "timeout"


@pytest.mark.parametrize("then", ["hang", Endless(chunked(b"data"), 0.02)], ids=["silent", "slow"])
async def test_an_answer_that_stalls_times_out(dialect: Dialect, then: Step) -> None:
    error = await failed(dialect, streams(dialect.begun, then=[then]), deadlines=STALLED)

    assert type(error) is ProviderUnavailable
    assert error.code == "timeout"


async def test_an_answer_may_take_long_as_long_as_it_goes_on(dialect: Dialect) -> None:
    cuts = [at + 2 for at in range(len(dialect.whole)) if dialect.whole[at : at + 2] == b"\n\n"]
    deadlines = Deadlines(first_event_s=2.0, idle_s=2.0)
    elapsed = Elapsed()
    async with dialect.at(streams(dialect.whole, cuts=cuts, pause_s=0.6)) as (_, provider):
        chunks, _ = await collect(provider, request(deadlines=deadlines))

    assert len(chunks) == 4
    assert elapsed.seconds > deadlines.first_event_s


async def test_a_reader_may_take_its_time(dialect: Dialect) -> None:
    async with dialect.at(streams(dialect.whole)) as (_, provider):
        border = Border()
        read = 0
        asked = request(deadlines=STALLED)
        async for _ in provider.generate(
            asked, gate=border.gate, observe=border.told.append, received=border.receive
        ):
            read += 1
            if read == 1:
                await asyncio.sleep(STALLED.idle_s + 0.1)

    assert read == 5


async def test_pings_are_no_answer() -> None:
    ping = Endless(chunked(named_sse({"type": "ping"})), 0.02)

    error = await failed(ANTHROPIC, Behaviour((stream_head(), ping)), deadlines=NOT_BEGUN)

    assert error.code == "timeout"


async def test_an_answer_that_goes_on_and_on_ends_with_its_time(dialect: Dialect) -> None:
    error = await failed(
        dialect,
        streams(dialect.begun, then=[Endless(chunked(dialect.piece), 0.02)]),
        deadlines=NOT_ENDED,
    )

    assert type(error) is ProviderUnavailable
    assert error.code == "timeout"


@pytest.mark.parametrize(
    "bounds",
    [AnswerBounds(answer_bytes=20_000), AnswerBounds(events=100)],
    ids=["bytes", "events"],
)
async def test_an_endless_answer_is_bounded(dialect: Dialect, bounds: AnswerBounds) -> None:
    error = await failed(
        dialect, streams(dialect.begun, then=[Endless(chunked(dialect.piece))]), bounds=bounds
    )

    assert type(error) is ProviderBroken
    assert error.code == "endless"


async def test_one_endless_event_is_bounded(dialect: Dialect) -> None:
    error = await failed(
        dialect,
        streams(dialect.begun + b"data: ", then=[Endless(chunked(b"x" * 1000))]),
        bounds=AnswerBounds(event_bytes=50_000),
    )

    assert type(error) is ProviderBroken
    assert error.code == "event_too_large"


async def test_closing_the_generator_closes_the_connection(dialect: Dialect) -> None:
    behaviour = streams(dialect.begun, then=["hang"])
    async with dialect.at(behaviour) as (server, provider):
        border = Border()
        generator = provider.generate(
            request(), gate=border.gate, observe=border.told.append, received=border.receive
        )
        async with aclosing(generator) as items:
            await anext(items)
            assert server.open == 1
        assert await eventually(lambda: server.hang_ups == 1)


async def test_cancelling_the_call_closes_the_connection(dialect: Dialect) -> None:
    async with dialect.at(HANGS) as (server, provider):
        call = asyncio.create_task(collect(provider, request(deadlines=Deadlines())))
        assert await eventually(lambda: len(server.received) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await eventually(lambda: server.hang_ups == 1)
