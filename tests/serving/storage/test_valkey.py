"""The client of Valkey: a deadline on every call, and a pause after each failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from valkey.asyncio import Valkey as Client
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff

from serving.storage.errors import ValkeyNotAsked, ValkeyUnavailable, ValkeyUrlInvalid
from serving.storage.valkey import PAUSE_S, Valkey
from tests.serving.valkeys import names

PASSWORD = "canary-of-the-url"


class Clock:
    """Seconds since the start."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Listener:
    """A server on loopback that records what it receives."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.received = b""


@asynccontextmanager
async def listening(
    answer: Callable[[bytes], Awaitable[bytes | None]],
) -> AsyncIterator[Listener]:
    """Answer requests; close the connection for None."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.connections += 1
        while piece := await reader.read(65536):
            listener.received += piece
            reply = await answer(piece)
            if reply is None:
                break
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listener = Listener(server.sockets[0].getsockname()[1])
    try:
        yield listener
    finally:
        server.close()
        await server.wait_closed()


async def silent(piece: bytes) -> bytes:
    del piece
    return b""


async def hang_up(piece: bytes) -> None:
    del piece


async def pong(piece: bytes) -> bytes:
    """Answer `+PONG` to every command."""
    return b"+PONG\r\n" * piece.count(b"*")


async def nonsense(piece: bytes) -> bytes:
    del piece
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


async def refusing(piece: bytes) -> bytes:
    return b"-ERR no\r\n" * piece.count(b"*")


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Valkey]:
    valkey = Valkey.open(url, **options)
    yield valkey
    await valkey.close()


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
async def test_server_is_reached_by_either_scheme(scheme: str) -> None:
    async with (
        listening(pong) as server,
        opened(f"{scheme}://{PASSWORD}:{PASSWORD}@127.0.0.1:{server.port}/7") as valkey,
    ):
        with pytest.raises(ValkeyUnavailable):  # This one says PONG to AUTH and SELECT as well.
            await valkey.command("PING")
        assert b"AUTH" in server.received
        assert server.received.count(PASSWORD.encode()) == 2


async def test_database_of_the_url_is_chosen(redis_url: str, valkey_prefix: str) -> None:
    server, _, number = redis_url.rpartition("/")
    assert number
    async with opened(redis_url) as one, opened(f"{server}/{int(number) - 1}") as other:
        await one.command("SET", valkey_prefix, "here", "EX", 60)
        assert await other.command("GET", valkey_prefix) is None
        await one.command("DEL", valkey_prefix)


@pytest.mark.parametrize("scheme", ["valkeys", "rediss"])
async def test_secure_schemes_speak_tls(scheme: str) -> None:
    async with (
        listening(hang_up) as server,
        opened(f"{scheme}://127.0.0.1:{server.port}", timeout_s=5.0) as valkey,
    ):
        with pytest.raises(ValkeyUnavailable):
            await valkey.command("PING")
        assert server.received.startswith(b"\x16\x03")  # A handshake, RFC 8446, 5.1.


async def test_server_is_reached_by_its_socket(embedded_valkey_url: str) -> None:
    assert embedded_valkey_url.startswith("unix:///")
    async with opened(embedded_valkey_url) as valkey:
        assert await valkey.command("PING") in (True, b"PONG")


@pytest.mark.parametrize(
    "url",
    [
        "",
        PASSWORD,
        f"http://:{PASSWORD}@h",
        f"user:{PASSWORD}@h:6379",
        f"//:{PASSWORD}@h",
        f"REDIS ://:{PASSWORD}@h",
        f"valkey://:{PASSWORD}@h:99999",
        f"valkey://:{PASSWORD}@h:port",
        f"valkey://:{PASSWORD}@h?db=first",
        f"valkey://:{PASSWORD}@[::1",
    ],
)
def test_url_that_cannot_be_one_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValkeyUrlInvalid) as refused:
        Valkey.open(url)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"valkey://:{PASSWORD}/x@h:6379",
        f"valkey://user:{PASSWORD}#x@h",
        f"valkey://user:{PASSWORD}?x@h",
        f"valkey://user:[{PASSWORD}]@h",
        f"valkey://user:{PASSWORD}@h\u2100",
    ],
)
def test_url_whose_password_is_not_quoted_does_not_show_it(url: str) -> None:
    with pytest.raises(ValkeyUrlInvalid) as refused:
        Valkey.open(url)
    assert PASSWORD not in str(refused.value)


def test_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValkeyUrlInvalid):
        Valkey.open("valkey://h?timeuot=3")


@pytest.mark.parametrize("call", ["command", "script"])
async def test_server_that_never_answers_is_given_up(call: str) -> None:
    async with (
        listening(silent) as server,
        opened(f"valkey://127.0.0.1:{server.port}", timeout_s=0.1) as valkey,
    ):
        with pytest.raises(ValkeyUnavailable, match="TimeoutError"):
            await (valkey.command("PING") if call == "command" else valkey.run("return 1"))


@pytest.mark.parametrize("answer", [hang_up, nonsense, refusing], ids=lambda one: one.__name__)
async def test_server_that_does_not_do_as_it_is_asked_is_unavailable(answer: Any) -> None:
    async with (
        listening(answer) as server,
        opened(f"valkey://127.0.0.1:{server.port}") as valkey,
    ):
        with pytest.raises(ValkeyUnavailable):
            await valkey.command("PING")


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:1", "unix:///nowhere/server.sock"])
async def test_server_that_is_not_there_is_unavailable(url: str) -> None:
    async with opened(url) as valkey:
        with pytest.raises(ValkeyUnavailable) as refused:
            await valkey.command("PING")
        assert not isinstance(refused.value, ValkeyNotAsked)


async def test_failure_tells_nothing_of_what_was_asked(
    embedded_valkey_url: str, valkey_prefix: str
) -> None:
    async with opened(embedded_valkey_url, timeout_s=5.0) as valkey:
        await valkey.command("SET", f"{valkey_prefix}text", "text", "EX", 60)
        with pytest.raises(ValkeyUnavailable) as refused:
            await valkey.command("LPUSH", f"{valkey_prefix}text", PASSWORD)
        assert str(refused.value) == "Valkey is unavailable: ResponseError"


async def test_server_that_failed_is_left_alone_for_a_moment() -> None:
    clock = Clock()
    async with listening(hang_up) as server:
        url = f"valkey://127.0.0.1:{server.port}"
        client = Client.from_url(url, retry=Retry(NoBackoff(), 0))
        valkey = Valkey(client, timeout_s=5.0, clock=clock)
        with pytest.raises(ValkeyUnavailable):
            await valkey.command("PING")
        asked = server.connections
        clock.seconds = PAUSE_S - 0.01
        for call in (valkey.command("PING"), valkey.run("return 1")):
            with pytest.raises(ValkeyNotAsked):
                await call
        assert server.connections == asked
        clock.seconds = PAUSE_S
        with pytest.raises(ValkeyUnavailable):
            await valkey.command("PING")
        assert server.connections > asked
        await valkey.close()


async def test_reply_that_comes_too_late_is_not_taken_for_another(
    valkey_url: str, valkey_prefix: str
) -> None:
    async with opened(valkey_url, timeout_s=0.3) as valkey:
        with pytest.raises(ValkeyUnavailable):
            await valkey.command("BLPOP", f"{valkey_prefix}nothing", 0.5)
        await asyncio.sleep(0.6)  # Its reply is there now, and the pause is over.
        valkey._timeout_s = 30.0
        told = await asyncio.gather(*(valkey.command("ECHO", f"{n}") for n in range(20)))
        assert told == [b"%d" % n for n in range(20)]


async def test_call_that_was_cancelled_leaves_no_reply_to_the_next(
    valkey: Valkey, valkey_prefix: str
) -> None:
    for turns in range(12):
        call = asyncio.create_task(valkey.command("ECHO", f"old {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
        assert await valkey.command("ECHO", f"new {turns}") == f"new {turns}".encode()
    assert await names(valkey, valkey_prefix) == []


async def test_script_runs_in_one_piece_and_is_told_its_arguments(
    valkey: Valkey, valkey_prefix: str
) -> None:
    script = """
    local seen = redis.call('GET', ARGV[1]) or 0
    redis.call('SET', ARGV[1], seen + 1, 'EX', 60)
    return {ARGV[2], ARGV[3], tonumber(seen)}
    """
    key = f"{valkey_prefix}count"
    told = await asyncio.gather(*(valkey.run(script, key, "text", 7) for _ in range(20)))
    assert sorted(told) == [[b"text", b"7", n] for n in range(20)]


async def test_script_that_the_server_has_forgotten_is_told_again(embedded_valkey_url: str) -> None:
    async with opened(embedded_valkey_url, timeout_s=5.0) as valkey:
        assert await valkey.run("return 41 + 1") == 42
        await valkey.command("SCRIPT", "FLUSH")
        assert await valkey.run("return 41 + 1") == 42


async def test_cancellation_ends_whoever_calls(redis_url: str, valkey_prefix: str) -> None:
    client = Valkey.open(redis_url)

    async def call_for_ever() -> None:
        while True:
            await client.command("SET", valkey_prefix + "k", "v")

    tasks = []
    for wait_ms in range(100):
        tasks.append(asyncio.create_task(call_for_ever()))
        await asyncio.sleep(wait_ms % 10 / 5_000)
        tasks[-1].cancel()
        await asyncio.sleep(0)
    _, running = await asyncio.wait(tasks, timeout=60)
    for task in running:
        task.cancel()
    await client.close()
    assert len(running) == 0
