"""Reads token times of a streamed answer without parsing JSON, in microseconds per chunk.

At high load, a client that parses every event would measure itself. This reader counts the bytes
that any JSON writer emits for a non-empty `content`, and checks the count against the answer's
usage. Does not support tool calls, several choices or reasoning.
"""

from __future__ import annotations

import re

from benchmarks.client.records import AnswerReader

_LAST_CHUNK = b"0\r\n\r\n"
_CONTENT = re.compile(rb'"content": ?"[^"]')
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: ?chunked\r\n", re.IGNORECASE)


class GapReader(AnswerReader):
    """Reads a streamed answer in chunked coding; other answers are read as refusals."""

    __slots__ = ("_done", "_end", "_head", "_light", "_rest")

    def __init__(self) -> None:
        super().__init__()
        self._head = b""
        self._rest = b""
        self._end = b""
        self._light = False
        self._done = False

    @property
    def times_s(self) -> list[float]:
        """Arrival time of each token so far."""
        return self._times_s

    @property
    def complete(self) -> bool:
        """Whether the response has ended, successfully or not."""
        return self._ended or super().complete

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self._ended or super().reusable

    @property
    def _ended(self) -> bool:
        # No other read ends like this, because a chunk of events ends with two line feeds.
        return self._end == _LAST_CHUNK

    def feed(self, data: bytes, now_s: float) -> None:
        """Process the next bytes, all of which arrived at `now_s`.

        Raises:
            MalformedResponseError: The bytes are not an HTTP response.
        """
        if self._light:
            self._scan(data, now_s)
            return
        self._head += data
        head, blank, rest = self._head.partition(b"\r\n\r\n")
        if not blank:
            return
        data, self._head = self._head, b""
        if head.startswith(b"HTTP/1.1 200") and _CHUNKED.search(head + b"\r\n"):
            self._light = True
            super().feed(head + blank, now_s)
            self._scan(rest, now_s)
        else:
            super().feed(data, now_s)

    def _scan(self, data: bytes, now_s: float) -> None:
        self._end = (self._end + data[-5:])[-5:]
        # An incomplete line waits for its rest.
        data = self._rest + data
        whole = data.rfind(b"\n") + 1
        self._rest = data[whole:]
        tokens = len(_CONTENT.findall(data, 0, whole))
        if tokens == 1:
            self._times_s.append(now_s)
        elif tokens:
            self._times_s += [now_s] * tokens
        if not tokens or b"_tokens" in data or b"[DONE]" in data:
            self._look_for_end(data)

    def _look_for_end(self, data: bytes) -> None:
        if usage := _USAGE.search(data):
            self._tokens = int(usage[1])
        if b"data: [DONE]" in data:
            self._done = True
        if b'data: {"error"' in data:
            self._error = f"error frame: {data[:200]!r}"

    def close(self) -> None:
        """Process the end of the connection.

        Raises:
            MalformedResponseError: The response was incomplete.
        """
        if not self._ended:
            super().close()

    def _take_body(self, body: bytes, now_s: float) -> None:
        del body, now_s

    def _missing(self) -> str | None:
        if not self._done:
            return "the stream ended without [DONE]"
        if len(self._times_s) != self._tokens:
            return f"{len(self._times_s)} chunks with a token, {self._tokens} tokens by its usage"
        return None
