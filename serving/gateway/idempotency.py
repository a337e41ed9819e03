"""`Idempotency-Key`: a repeated POST gives the first one's answer, and the work is done once.

The work runs in a task of its own, and the client that asked first only follows it: it may lose
its connection, repeat the request and get the whole answer. Without the header nothing changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from models.engine import EngineError, ReaderTooSlow
from serving.domain.errors import IdempotencyUnavailable, InvalidRequest, RingfenceError
from serving.domain.principal import Principal
from serving.gateway.boundary import Boundary
from serving.gateway.open_requests import OpenRequests
from serving.gateway.recorded_messages import (
    Messages,
    body_message,
    head_line,
    is_event_stream,
    is_last,
    replayed,
)
from serving.gateway.streaming import Deferred, error_event, error_response
from serving.gateway.wire.options import ON_FAILURE, PRIVACY
from serving.idempotency.store import IdempotencyStore, Recorder, Replay, RunLost

HEADER = "Idempotency-Key"
RUN_DEADLINE_S = 3600.0
"""Deadline of work that may have no client any more."""

SEND_DEADLINE_S = 60.0
"""How long a client may take to read a piece; one that takes longer has stopped reading."""

MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""The most of an answer that waits for the client that asked first. The record has all of it."""

CLOSE_GRACE_S = 1.0
CLOSE_DEADLINE_S = 5.0

Make = Callable[[], Awaitable[Response]]

_KEY = re.compile(r"[ -~]{1,255}")
_OUR_HEADERS = (PRIVACY, ON_FAILURE)


class Idempotency:
    """Answers requests that carry an idempotency key.

    Args:
        store: the records of answers, shared by every gateway.
        requests: counts the work too, which may outlast its client.
        run_deadline_s: for the work of one request.
        send_deadline_s: for a client to take what is sent.
    """

    def __init__(
        self,
        store: IdempotencyStore,
        *,
        requests: OpenRequests,
        run_deadline_s: float = RUN_DEADLINE_S,
        send_deadline_s: float = SEND_DEADLINE_S,
    ) -> None:
        self._store = store
        self._requests = requests
        self._run_deadline_s = run_deadline_s
        self._send_deadline_s = send_deadline_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(
        self, request: Request, principal: Principal, raw_body: bytes, make: Make
    ) -> Response:
        """Answer with what `make` returns, or with the recorded answer of the same request.

        Args:
            request: read to its end.
            principal: its tenant is the scope of the key.
            raw_body: the body as it was sent.
            make: validates and builds the response. Runs at most once, maybe without a client.

        Raises:
            InvalidRequest: the header is not 1 to 255 printable ASCII characters.
            IdempotencyConflict: the key was used for another request.
            IdempotencyTooLarge: the answer was given and could not be kept.
            IdempotencyUnavailable: no record can be kept now; nothing ran.
        """
        key = idempotency_key(request.headers)
        if key is None:
            return await make()
        asked = _Asked(
            request, principal.tenant, key, _fingerprint(request, principal, raw_body), make
        )
        messages = await self._begin(asked)
        return Deferred(lambda send: self._answer(asked, messages, send))

    async def close(self, *, grace_s: float = CLOSE_GRACE_S) -> None:
        """Wait for work that is ending, and cancel the rest: what repeats it begins anew."""
        for timeout_s in (grace_s, CLOSE_DEADLINE_S):
            if tasks := set(self._tasks):
                _, running = await asyncio.wait(tasks, timeout=timeout_s)
                for task in running:
                    task.cancel()

    async def _begin(self, asked: _Asked) -> Messages:
        """Return the answer's messages: of new work, or of a record. Raises as above."""
        begun = await self._store.begin(asked.tenant, asked.key, asked.fingerprint)
        if isinstance(begun, Replay):
            return replayed(begun)
        inbox = _Inbox()
        task = asyncio.create_task(self._work(asked, begun, inbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return inbox.messages()

    async def _work(self, asked: _Asked, recorder: Recorder, inbox: _Inbox) -> None:
        """Do the work of a request, even if its client is gone."""
        tee = _Tee(recorder, inbox)
        try:
            async with recorder:
                work = Boundary(self._app(asked.make), self._requests)
                await work(asked.scope(), _never, tee)
                if tee.complete:
                    await recorder.finish(keep=tee.status == 200)
        finally:
            inbox.close()

    def _app(self, make: Make) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async with asyncio.timeout(self._run_deadline_s):
                try:
                    response = await make()
                    await response(scope, receive, send)
                except (RingfenceError, EngineError) as error:
                    await error_response(error)(scope, receive, send)

        return app

    async def _answer(self, asked: _Asked, messages: Messages, send: Send) -> None:
        """Pass the answer on to one client."""
        client = _Client(send, self._send_deadline_s)
        try:
            while not await client.passed(messages):
                messages = await self._begin(asked)
        except (RingfenceError, EngineError) as error:
            if not client.streaming:
                raise
            await client.send(body_message(error_event(error), more=False))


def idempotency_key(headers: Headers) -> str | None:
    """Return the key of a request, if it has one. Raises `InvalidRequest` if it is malformed."""
    if HEADER not in headers:
        return None
    values = headers.getlist(HEADER)
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise InvalidRequest(
            f"The header {HEADER} takes one value of 1 to 255 printable ASCII characters.",
            param=HEADER,
        )
    return values[0]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request with a key: what `IdempotencyStore.begin` takes, and how to answer it."""

    request: Request
    tenant: str
    key: str
    fingerprint: bytes
    make: Make

    def scope(self) -> Scope:
        """The scope for work that has no connection, with the id of the request that asked."""
        own = {"headers": [(b"x-request-id", self.request.scope["request_id"].encode())]}
        return dict(self.request.scope) | own


class _Tee:
    """Passes the messages of the work to the record and to the client, without waiting."""

    def __init__(self, recorder: Recorder, inbox: _Inbox) -> None:
        self._recorder = recorder
        self._inbox = inbox
        self.status = 0
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._recorder.write(head_line(message))
        else:
            self._recorder.write(message.get("body", b""))
            self.complete = is_last(message)
        self._inbox.put(message)


class _Inbox:
    """Messages on their way from the work to the client that asked, for as long as it is there."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._open = True
        self._unread_bytes = 0
        self._overrun = False

    def put(self, message: Message) -> None:
        """Add a message. Does nothing once the client is gone, or too much waits for it."""
        if not self._open:
            return
        size = len(message.get("body", b""))
        if self._unread_bytes and self._unread_bytes + size > MAX_UNREAD_BYTES:
            self._open, self._overrun = False, True
            self.close()
            return
        self._unread_bytes += size
        self._queue.put_nowait(message)

    def close(self) -> None:
        """No more are to come."""
        self._queue.put_nowait(None)

    async def messages(self) -> Messages:
        """Every message in order.

        Raises:
            IdempotencyUnavailable: the work was given up.
            ReaderTooSlow: too much waited.
        """
        try:
            while (message := await self._queue.get()) is not None:
                self._unread_bytes -= len(message.get("body", b""))
                yield message
                if is_last(message):
                    return
        finally:
            self._open = False
        if self._overrun:
            raise ReaderTooSlow(
                "The client does not read this answer fast enough. Repeat the request with the "
                "same key: all of the answer is kept."
            )
        raise IdempotencyUnavailable("The server stops. Repeat the request with the same key.")


class _Client:
    """A client that receives an answer."""

    def __init__(self, send: Send, deadline_s: float) -> None:
        self._send = send
        self._deadline_s = deadline_s
        self.streaming = False

    async def passed(self, messages: Messages) -> bool:
        """Pass an answer on; False when it was lost before the client had any of it."""
        try:
            async with aclosing(messages):
                async for message in messages:
                    await self.send(message)
        except RunLost:
            if self.streaming:
                raise IdempotencyUnavailable(
                    "The server that made this answer is gone. Repeat the request with the same "
                    "key."
                ) from None
            return False
        return True

    async def send(self, message: Message) -> None:
        """Send one message; a client that does not take it in time is given up."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._send(message)
        except TimeoutError:
            raise asyncio.CancelledError from None  # As when it hangs up: no error of ours.
        if message["type"] == "http.response.start":
            self.streaming = is_event_stream(message)


def _fingerprint(request: Request, principal: Principal, raw_body: bytes) -> bytes:
    """Hash a request together with what its key may use, read and let leave.

    A key of less rights gets no other's answer, and a stricter request none of a looser class.
    """
    models = None if principal.allowed_models is None else sorted(principal.allowed_models)
    rights = models, sorted(principal.groups), principal.user, principal.privacy
    asked = [request.headers.getlist(name) for name in _OUR_HEADERS]
    head = f"{request.method} {request.scope['path']} {rights} {asked}\n".encode()
    return hashlib.sha256(head + raw_body).digest()


async def _never() -> Message:
    """The `receive` of work whose client cannot go away. Ends when the work does."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError
