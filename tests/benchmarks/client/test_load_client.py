import asyncio
import contextlib
from dataclasses import replace
from itertools import pairwise

import orjson
import pytest

from benchmarks.client.load_client import Target, closed_loop, encode_chat, open_loop
from benchmarks.running.arms import HOST

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWER = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n'
    b"data: [DONE]\n\n"
)
WHOLE = HEAD + f"{len(ANSWER):x}\r\n".encode() + ANSWER + b"\r\n0\r\n\r\n"


class FakeServer:
    """Answers the n-th request of all connections with `script[n]`, and then with the last entry.

    An entry is what to write. `None` means silence; an entry that ends in `close` closes.
    """

    def __init__(self, *script):
        self.script = script
        self.requests = []
        self.connections = 0
        self.open = self.most_open = 0
        self.handlers = set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.handlers.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.rpartition(b"content-length: ")[2])
                body = await reader.readexactly(length)
                answer = self.script[min(len(self.requests), len(self.script) - 1)]
                self.requests.append((head, orjson.loads(body)))
                if not await self.answer(writer, answer):
                    break
        writer.close()

    async def answer(self, writer, answer):
        if answer is None:
            return True
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0.01)
        self.open -= 1
        writer.write(answer.removesuffix(b"close"))
        await writer.drain()
        return not answer.endswith(b"close")


@contextlib.asynccontextmanager
async def serving(*script):
    fake = FakeServer(*script)
    server = await asyncio.start_server(fake.serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield fake, Target(host=HOST, port=port, model="m", api_key="k")
    finally:
        server.close()
        if fake.handlers:
            await asyncio.wait(fake.handlers, timeout=5)


def chats(target, count):
    return [encode_chat(target, f"prompt {index}", max_tokens=1) for index in range(count)]


async def test_a_request_is_greedy_of_fixed_length_and_authenticated():
    async with serving(WHOLE) as (fake, target):
        await closed_loop(target, chats(target, 1), streams=1, deadline_s=60)
    head, body = fake.requests[0]
    assert b"authorization: Bearer k\r\n" in head
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "prompt 0"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": 1,
    }


async def test_a_closed_loop_keeps_each_stream_busy_on_one_connection():
    async with serving(WHOLE) as (fake, target):
        records = await closed_loop(target, chats(target, 12), streams=3, deadline_s=60)
    assert [record.error for record in records] == [None] * 12
    assert (fake.connections, fake.most_open) == (3, 3)


async def test_an_open_loop_does_not_wait_for_answers():
    async with serving(None) as (fake, target):
        records = await open_loop(
            target, chats(target, 5), rate_per_s=1_000, seed=1, deadline_s=0.3
        )
    assert (len(records), len(fake.requests)) == (5, 5)


async def test_an_open_loop_starts_at_seeded_poisson_arrivals():
    gaps = []
    async with serving(WHOLE) as (_, target):
        for _run in range(2):
            records = await open_loop(
                target, chats(target, 200), rate_per_s=500, seed=7, deadline_s=60
            )
            starts = [record.start_s for record in records]
            gaps.append([after - before for before, after in pairwise(starts)])
    assert pytest.approx(gaps[0], abs=1e-9) == gaps[1]
    assert pytest.approx(1 / 500, rel=0.2) == sum(gaps[0]) / len(gaps[0])


async def test_an_open_loop_sends_nothing_before_it_is_due():
    async with serving(WHOLE) as (_, target):
        records = await open_loop(target, chats(target, 5), rate_per_s=20, seed=1, deadline_s=60)
    assert min(record.e2e_s for record in records) > 0


async def test_a_silent_server_costs_no_more_than_the_deadline():
    async with serving(None) as (_, target):
        (record,) = await closed_loop(target, chats(target, 1), streams=1, deadline_s=0.2)
    assert record.error == "no complete answer within 0.2 s"
    assert record.e2e_s >= 0.2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HEAD + b"close", "MalformedResponseError: connection closed in the middle"),
        (b"nonsense\r\n\r\nclose", "MalformedResponseError: status line b'nonsense'"),
        (
            b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusyclose",
            "status 503: busy",
        ),
    ],
)
async def test_a_failed_request_is_recorded_and_the_next_is_served(answer, error):
    async with serving(answer, WHOLE) as (fake, target):
        failed, served = await closed_loop(target, chats(target, 2), streams=1, deadline_s=60)
    assert failed.error is not None
    assert failed.error.startswith(error)
    assert (served.error, served.completion_tokens, fake.connections) == (None, 1, 2)


async def test_an_answer_that_the_connections_end_ends_is_complete():
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER + b"close") as (fake, target):
        records = await closed_loop(target, chats(target, 2), streams=1, deadline_s=60)
    assert [record.error for record in records] == [None, None]
    assert fake.connections == 2


async def test_a_server_that_is_not_there_is_an_os_error():
    async with serving(WHOLE) as (_, target):
        pass
    with pytest.raises(OSError, match="Connect"):
        await closed_loop(target, chats(target, 1), streams=1, deadline_s=60)


async def test_a_request_goes_to_the_base_path_and_without_a_key_has_none():
    async with serving(WHOLE) as (fake, target):
        other = replace(target, base_path="/a/v1", api_key="")
        await closed_loop(other, chats(other, 1), streams=1, deadline_s=60)
    head, _ = fake.requests[0]
    assert head.startswith(b"POST /a/v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization" not in head


def test_an_ipv6_address_stands_in_brackets():
    target = Target(host="::1", port=8000, model="m", api_key="k")
    assert b"\r\nhost: [::1]:8000\r\n" in encode_chat(target, "p", max_tokens=1)
