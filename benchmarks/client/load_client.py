"""The load client: sends chat requests over raw asyncio connections, in closed or open loop.

It only measures; callers choose requests and compute statistics. Each wait has a deadline, so n
requests end within n deadlines even if the server is dead.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import cast

import orjson

from benchmarks.client.http_stream import MalformedResponseError
from benchmarks.client.records import AnswerReader, RequestRecord, StreamReader

CONNECT_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible endpoint, one model, and one key.

    Attributes:
        api_key: The key sent with each request; no key is sent if it is empty.
        base_path: The URL's path before `/chat/completions`.
        tls: Selects HTTPS, and the certificates that are trusted.
    """

    host: str
    port: int
    model: str
    api_key: str
    base_path: str = "/v1"
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """`host:port`, with an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def encode_chat(target: Target, prompt: str, *, max_tokens: int, stream: bool = True) -> bytes:
    """Encode the HTTP request of a greedy chat with exactly `max_tokens` output tokens.

    vLLM's `ignore_eos` makes every server do the same work, whatever the model says.
    """
    fields: dict[str, object] = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": max_tokens,
    }
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    body = orjson.dumps(fields)
    authorization = f"authorization: Bearer {target.api_key}\r\n" if target.api_key else ""
    head = (
        f"POST {target.base_path}/chat/completions HTTP/1.1\r\n"
        f"host: {target.authority}\r\n"
        f"{authorization}"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


async def closed_loop(
    target: Target,
    requests: Iterable[bytes],
    *,
    streams: int,
    deadline_s: float,
    reader: Callable[[], AnswerReader] = StreamReader,
) -> tuple[RequestRecord, ...]:
    """Send `requests` over `streams` kept-alive connections, each busy until no request is left.

    Args:
        target: The endpoint to connect to.
        requests: Encoded requests; an idle stream takes the next one. The first is taken once every
            connection is open.
        streams: Number of connections, all opened before the first request starts.
        deadline_s: Deadline of one request in seconds.
        reader: Makes the reader of each answer; by default, that of streamed answers.

    Returns:
        One record per request, stream by stream.

    Raises:
        OSError: A connection cannot be opened before the first request.
    """
    opened = [_Stream(target, reader) for _ in range(streams)]
    queue = iter(requests)

    async def drain(stream: _Stream) -> list[RequestRecord]:
        return [await stream.exchange(request, perf_counter(), deadline_s) for request in queue]

    with _closing(opened):
        await asyncio.gather(*(stream.open() for stream in opened))
        records = await asyncio.gather(*(drain(stream) for stream in opened))
    return tuple(chain.from_iterable(records))


async def open_loop(
    target: Target, requests: Sequence[bytes], *, rate_per_s: float, seed: int, deadline_s: float
) -> tuple[RequestRecord, ...]:
    """Send `requests` at Poisson arrivals, whether or not earlier ones have been answered.

    A request's time starts when it was due, even if it was sent later: a slow server or client
    cannot hide its own delay (coordinated omission).

    Args:
        target: The endpoint to connect to. Idle connections are reused before new ones are opened.
        requests: Encoded requests in order of arrival.
        rate_per_s: Mean arrivals per second.
        seed: Seed of the arrival times.
        deadline_s: Deadline of one request in seconds, from when it was due.

    Returns:
        One record per request, in order of arrival.
    """
    idle: list[_Stream] = []
    opened: list[_Stream] = []

    async def send(request: bytes, due_s: float) -> RequestRecord:
        await asyncio.sleep(due_s - perf_counter())
        if not idle:
            opened.append(_Stream(target))
            idle.append(opened[-1])
        stream = idle.pop()
        record = await stream.exchange(request, due_s, deadline_s)
        idle.append(stream)
        return record

    # Arrival times need no cryptographic randomness.
    arrivals = random.Random(seed)  # noqa: S311
    due_s = perf_counter()
    sends = []
    for request in requests:
        due_s += arrivals.expovariate(rate_per_s)
        sends.append(send(request, due_s))
    with _closing(opened):
        return tuple(await asyncio.gather(*sends))


class _Connection(asyncio.Protocol):
    """A TCP connection that passes received bytes to the current reader."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None
        self._reader: AnswerReader = StreamReader()
        self._answered: asyncio.Future[None] | None = None

    async def answer(self, request: bytes, reader: AnswerReader) -> None:
        """Send `request`, and return once `reader` has the whole answer."""
        if self.transport is None:
            raise ConnectionResetError("closed by the server")
        self._reader = reader
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio types this too broadly; uvloop's transport does not derive from asyncio's class.
        self.transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data, perf_counter())
        except MalformedResponseError as error:
            self._finish(error)
            return
        if self._reader.complete:
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        try:
            self._reader.close()
        except MalformedResponseError as error:
            self._finish(exc or error)
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._answered is None or self._answered.done():
            return
        if error is None:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(error)


class _Stream:
    """Sends one request at a time on a kept-alive connection, which is reopened after a failure."""

    def __init__(self, target: Target, reader: Callable[[], AnswerReader] = StreamReader) -> None:
        self._target = target
        self._reader = reader
        self._connection = _Connection()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            _, self._connection = await loop.create_connection(
                _Connection, self._target.host, self._target.port, ssl=self._target.tls
            )

    async def exchange(self, request: bytes, start_s: float, deadline_s: float) -> RequestRecord:
        """Send one request and wait for the end of its answer, until the deadline."""
        reader = self._reader()
        failure = None
        try:
            async with asyncio.timeout(start_s + deadline_s - perf_counter()):
                if self._connection.transport is None:
                    await self.open()
                await self._connection.answer(request, reader)
        except TimeoutError:
            failure = f"no complete answer within {deadline_s} s"
        except (OSError, MalformedResponseError) as error:
            failure = f"{type(error).__name__}: {error}"
        end_s = perf_counter()
        if not reader.reusable:
            self.close()
        return reader.record(start_s=start_s, end_s=end_s, failure=failure)

    def close(self) -> None:
        if self._connection.transport is not None:
            self._connection.transport.abort()
            self._connection = _Connection()


@contextmanager
def _closing(streams: Sequence[_Stream]) -> Iterator[None]:
    try:
        yield
    finally:
        for stream in streams:
            stream.close()
