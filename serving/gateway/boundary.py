"""The outermost ASGI layer: request id, timing headers, and the one place that catches all."""

from __future__ import annotations

import logging
import re
import time
import traceback
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import Unexpected, envelope
from serving.gateway.responses import error_response

logger = logging.getLogger("ringfence.gateway")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Boundary:
    """Wraps the application. Sets `scope["request_id"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  The one boundary; its text may hold a prompt.
            place = "".join(traceback.format_tb(error.__traceback__))
            name = type(error).__name__
            logger.error("request %s: %s\n%s", request_id, name, place)  # noqa: TRY400  No text.
            if not answered:
                await error_response(Unexpected())(scope, receive, send_with_headers)
            elif streaming:
                event = b"data: " + envelope(Unexpected()) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": False})


def _request_id(scope: Scope) -> str:
    """The client's id where it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{uuid4().hex}"
