"""Responses that are produced while they are sent: event streams and collected answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.engine import EngineError
from models.openai_stream import DONE, framed
from serving.answering.routing import GeneratedAnswer
from serving.domain.errors import RingfenceError, envelope, outcome, retry_after_s
from serving.gateway.collect import Collector
from serving.gateway.headers import Raw, answer_headers, quota_headers

KEEP_ALIVE = b": keep-alive\n\n"

Generating = AbstractAsyncContextManager[GeneratedAnswer]

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Deferred(Response):
    """A response whose producer does the work while it sends, in one scope.

    The producer is cancelled as soon as the client goes away, whatever server runs the app and
    whatever headers the client sent.
    """

    def __init__(self, produce: Callable[[Send], Awaitable[None]]) -> None:
        super().__init__()
        self._produce = produce

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Produce and send."""
        async with _until_disconnect(receive):
            await self._produce(send)


def streamed(generating: Generating, *, keep_alive_s: float) -> Deferred:
    """A generation as server-sent events.

    Status 200 goes out with the first delta. A failure after that is an `error` event, and the
    stream then ends without `[DONE]`.
    """

    async def produce(send: Send) -> None:
        started = False
        last = DONE
        try:
            async with generating as generation, _keep_alive(send, keep_alive_s) as beat:
                async for delta in generation.deltas:
                    if not started:
                        started = True
                        headers = answer_headers(generation.given(), generation.quota)
                        await send(_start(200, _STREAM_HEADERS + headers))
                    beat.sent()
                    await send({"type": "http.response.body", "body": delta, "more_body": True})
        except (RingfenceError, EngineError) as error:
            if not started:
                raise
            last = error_event(error)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    return Deferred(produce)


def collected(generating: Generating) -> Deferred:
    """Collect the same stream into one JSON answer."""

    async def produce(send: Send) -> None:
        collector = Collector()
        async with generating as generation:
            async for delta in generation.deltas:
                collector.add(delta)
            answer = collector.answer()
            headers = answer_headers(generation.given(), generation.quota)
        await send_json(send, answer, headers=headers)

    return Deferred(produce)


async def send_json(send: Send, answer: dict[str, Any], *, headers: Raw) -> None:
    """Send a whole JSON answer with status 200."""
    body = orjson.dumps(answer)
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send(_start(200, own + headers))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def json_response(
    answer: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer that is complete already."""
    return Response(orjson.dumps(answer), status, headers, media_type="application/json")


def error_response(error: RingfenceError | EngineError) -> Response:
    """OpenAI's error envelope, with how long to wait where that is known."""
    told = outcome(error)
    headers = {}
    if (wait_s := retry_after_s(error)) is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
    if not told.retry:
        headers["x-should-retry"] = "false"
    if isinstance(error, RingfenceError) and error.quota is not None:
        headers.update(quota_headers(error.quota))
    if told.status == 401:
        headers["www-authenticate"] = "Bearer"
    if told.status in (408, 413):  # Else whoever drips the rest of a body keeps the connection.
        headers["connection"] = "close"
    return Response(envelope(error), told.status, headers, media_type="application/json")


def error_event(error: RingfenceError | EngineError) -> bytes:
    """OpenAI's error envelope as the last event of a stream."""
    return framed(envelope(error))


def _start(status: int, headers: Raw) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


class _Beat:
    """The time of the last send, on the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.sent()

    def sent(self) -> None:
        self.at = self._loop.time()

    def silence_s(self) -> float:
        return self._loop.time() - self.at


@asynccontextmanager
async def _keep_alive(send: Send, interval_s: float) -> AsyncIterator[_Beat]:
    """Send a comment after each `interval_s` of silence. Entered when the first delta is there.

    A client that does not even take the comment within that time has stopped reading: the scope
    is cancelled then. So sending has a deadline, and no delta pays for it.
    """
    beat = _Beat()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  A coroutine runs in a task.

    async def watch() -> None:
        while True:
            await asyncio.sleep(max(0.001, interval_s - beat.silence_s()))
            if beat.silence_s() < interval_s:
                continue
            beat.sent()
            try:
                async with asyncio.timeout(interval_s):
                    await send(
                        {"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True}
                    )
            except TimeoutError:
                task.cancel()
                return

    watcher = asyncio.create_task(watch())
    try:
        yield beat
    finally:
        watcher.cancel()


@asynccontextmanager
async def _until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the scope when the client disconnects; leave quietly then."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  A coroutine runs in a task.
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone or task.uncancel() > 0:  # Above 0, someone else wants the task to end too.
            raise
    finally:
        watcher.cancel()
