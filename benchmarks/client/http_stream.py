"""Incremental parsers for HTTP/1.1 responses and server-sent events.

They accept any split of the byte stream. They know nothing of sockets, clocks, JSON or OpenAI.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_HEAD_BYTES = 65_536
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")


class MalformedResponseError(ValueError):
    """The bytes are not an HTTP/1.1 response, or they end in the middle of one."""


class ResponseParser:
    """Parses one HTTP/1.1 response (RFC 9112), fed in pieces of any size.

    Attributes:
        status: Status code, once the head is complete. Interim 1xx responses are skipped.
        keep_alive: Whether the connection may carry another request.
        complete: Whether the body has ended.
    """

    __slots__ = ("_body", "_buffer", "_remaining", "_step", "complete", "keep_alive", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.keep_alive = True
        self.complete = False
        self._buffer = bytearray()
        self._body: list[bytes] = []
        self._remaining = 0
        self._step: Callable[[], bool] = self._read_head

    def feed(self, data: bytes) -> bytes:
        """Process the next bytes and return the body bytes that they complete.

        Raises:
            MalformedResponseError: The bytes violate the grammar.
        """
        self._buffer += data
        while not self.complete and self._step():
            pass
        if self.complete and self._buffer:
            raise MalformedResponseError(f"{len(self._buffer)} bytes after the response")
        body = b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """Process the end of the connection, which also ends a body of unknown length.

        Raises:
            MalformedResponseError: The response was incomplete.
        """
        self.keep_alive = False
        if self._step == self._read_until_close:
            self.complete = True
        if not self.complete:
            raise MalformedResponseError("connection closed in the middle of a response")

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES + 1):
            raise MalformedResponseError(f"a line of more than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES + 3):
            raise MalformedResponseError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        status_line, *fields = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _STATUS_LINE.fullmatch(status_line)
        if match is None:
            raise MalformedResponseError(f"status line {status_line[:80]!r}")
        status = int(match[1])
        if status >= 200:
            self.status = status
            self._choose_framing(_headers(fields))
        return True

    def _choose_framing(self, headers: dict[bytes, bytes]) -> None:
        self.keep_alive = headers.get(b"connection", b"").lower() != b"close"
        length = headers.get(b"content-length", b"")
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._step = self._read_chunk_size
        elif self.status in {204, 304} or length == b"0":
            self.complete = True
        elif not length:
            self._step = self._read_until_close
        elif length.isdigit():
            self._remaining = int(length)
            self._step = self._read_sized_body
        else:
            raise MalformedResponseError(f"content-length {length[:80]!r}")

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise MalformedResponseError(f"chunk size {line[:80]!r}")
        self._remaining = int(match[1], 16)
        self._step = self._read_chunk if self._remaining else self._read_trailers
        return True

    def _read_chunk(self) -> bool:
        if self._take_remaining():
            self._step = self._read_chunk_end
            return True
        return False

    def _read_chunk_end(self) -> bool:
        if not b"\r\n".startswith(bytes(self._buffer[:2])):
            raise MalformedResponseError("a chunk is longer than its size")
        if len(self._buffer) < 2:
            return False
        del self._buffer[:2]
        self._step = self._read_chunk_size
        return True

    def _read_trailers(self) -> bool:
        line = self._line()
        self.complete = line == b""
        return line is not None

    def _read_sized_body(self) -> bool:
        self.complete = self._take_remaining()
        return self.complete

    def _read_until_close(self) -> bool:
        self._body.append(bytes(self._buffer))
        self._buffer.clear()
        return False

    def _take_remaining(self) -> bool:
        piece = bytes(self._buffer[: self._remaining])
        del self._buffer[: len(piece)]
        self._body.append(piece)
        self._remaining -= len(piece)
        return self._remaining == 0


def _headers(fields: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for field in fields:
        name, colon, value = field.partition(b":")
        if not colon:
            raise MalformedResponseError(f"header {field[:80]!r}")
        headers[name.lower()] = value.strip(b" \t")
    return headers


class EventParser:
    """Parses server-sent events (WHATWG HTML, section 9.2), fed in pieces of any size.

    Only `data` is kept: comments and the fields `event`, `id` and `retry` are skipped. An
    incomplete
    event at the end of the stream is dropped, as the specification says.
    """

    __slots__ = ("_after_carriage_return", "_data", "_line")

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []
        self._after_carriage_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Process the next bytes and return the data of each event that they complete."""
        if self._after_carriage_return and data:
            # Otherwise the line feed of a split CRLF would be an empty line, which ends an event.
            data = data.removeprefix(b"\n")
            self._after_carriage_return = False
        lines = (self._line + data).splitlines(keepends=True)
        self._line = b""
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            self._line = lines.pop()
        elif lines:
            self._after_carriage_return = lines[-1].endswith(b"\r")
        return [event for line in lines if (event := self._take(line.rstrip(b"\r\n"))) is not None]

    def _take(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            event = b"\n".join(self._data)
            self._data = []
            return event
        return None
