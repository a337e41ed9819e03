"""The outermost ASGI layer: request id, timing headers, and the one place that catches all."""

from __future__ import annotations

import logging
import re
import time
import traceback
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.domain.errors import RingfenceError, ServerStopping, Unexpected
from serving.gateway.open_requests import OpenRequests
from serving.gateway.streaming import error_event, error_response

logger = logging.getLogger("ringfence.gateway")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

_PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Paths that are answered while the server stops."""


class Boundary:
    """Wraps the application. Sets `scope["request_id"]`.

    Args:
        app: what is wrapped.
        requests: counts the requests that are open, and may refuse and end them.
    """

    def __init__(self, app: ASGIApp, requests: OpenRequests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an unknown error becomes a 500 and a log line without its text."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = _request_id(scope)
        started = time.perf_counter()
        answered = streaming = False

        async def send_with_headers(message: Message) -> None:
            nonlocal answered, streaming
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(int((time.perf_counter() - started) * 1000))
                streaming = headers.get("content-type", "").startswith("text/event-stream")
            elif not message.get("more_body"):
                streaming = False
            await send(message)

        async def fail(error: RingfenceError) -> None:
            if not answered:
                await error_response(error)(scope, receive, send_with_headers)
            elif streaming:
                event = error_event(error)
                await send({"type": "http.response.body", "body": event, "more_body": False})

        with self._requests.counted(request_id):
            try:
                async with self._requests.work(refusable=scope["path"] not in _PROBES):
                    await self._app(scope, receive, send_with_headers)
            except ServerStopping as error:
                await fail(error)
            except Exception as error:  # noqa: BLE001  The one boundary; its text may hold a prompt.
                place = "".join(traceback.format_tb(error.__traceback__))
                name = type(error).__name__
                logger.error("request %s: %s\n%s", request_id, name, place)  # noqa: TRY400  No text.
                await fail(Unexpected())


def _request_id(scope: Scope) -> str:
    """The client's id where it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{uuid4().hex}"
