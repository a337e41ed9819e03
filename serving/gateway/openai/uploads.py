"""Uploads: a form with a file, received within deadlines and a size, and passed on in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet

from starlette.requests import ClientDisconnect, Request

from rag.parsing.media_types import HEAD_BYTES
from serving.config.retrieval import FileSettings
from serving.domain.errors import BodyTimeout, BodyTooLarge, InvalidRequest
from serving.gateway.openai.multipart import FILE, Form

MAX_FORM_BYTES = 1024 * 1024
"""Largest form, without its file."""


class Upload:
    """A form that is being received; its file is nowhere whole.

    Args:
        request: whose body was not read yet.
        known: names of the fields that are kept; others are ignored.
        settings: how large and how slow it may be.

    Raises:
        InvalidRequest: not a form.
        BodyTooLarge: it is announced to be.
    """

    def __init__(
        self, request: Request, known: AbstractSet[str], *, settings: FileSettings
    ) -> None:
        self.head = b""
        self._form = Form(request.headers.get("content-type", ""), known)
        self._request = request
        self._settings = settings
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._most):
            raise self._too_large()

    @property
    def filename(self) -> str:
        """The file's plain name; only when its pieces are through."""
        return self._form.filename or ""

    @property
    def fields(self) -> dict[str, str]:
        """The known fields that were sent; only when the file's pieces are through."""
        return self._form.fields

    @property
    def ignored(self) -> list[str]:
        """Names of the unknown fields; only when the file's pieces are through."""
        return self._form.ignored

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file, piece by piece. It ends when the whole form is there, and only then.

        Raises:
            InvalidRequest: malformed or incomplete, or the client went away.
            BodyTimeout: a piece, or all of it, took too long.
            BodyTooLarge: more bytes than allowed.
        """
        size = 0
        async for data in self._body():
            for piece in self._form.feed(data):
                size += len(piece)
                if size > self._settings.max_bytes:
                    raise self._too_large()
                self.head += piece[: HEAD_BYTES - len(self.head)]
                yield piece
        self._form.end()

    async def _body(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.upload_timeout_s
        stream = aiter(self._request.stream())
        size = 0
        while True:
            try:
                until = min(deadline, loop.time() + self._settings.idle_timeout_s)
                async with asyncio.timeout_at(until):
                    data = await anext(stream, None)
            except TimeoutError:
                raise BodyTimeout("The file did not arrive in time.") from None
            except ClientDisconnect:
                raise InvalidRequest("The client went away before the file was complete.") from None
            if data is None:
                return
            size += len(data)
            if size > self._most:
                raise self._too_large()
            yield data

    @property
    def _most(self) -> int:
        return self._settings.max_bytes + MAX_FORM_BYTES

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The file is larger than {self._settings.max_bytes} bytes.", param=FILE
        )
