"""Records of requests, streamed or not: times, tokens and outcome.

The terms are those of `vllm bench serve`: TTFT runs from the start to the first event with a
token, ITL is the gap between two such events (so batching inflates it), and TPOT is
`(E2E - TTFT) / (n - 1)`. All times are seconds of one monotonic clock. Knows nothing of sockets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from benchmarks.client.http_stream import EventParser, MalformedResponseError, ResponseParser

MAX_ERROR_CHARACTERS = 300
_TOKEN_FIELDS = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the client saw it.

    Attributes:
        start_s: When the request was sent (closed loop) or due (open loop).
        event_times_s: Arrival of each event with a non-empty choice delta, ascending.
        end_s: When the response was complete, or when it failed.
        status: HTTP status; None if no response head arrived.
        completion_tokens: Number from the usage event; 0 without one.
        error: Reason why the request failed; None if it was served.
    """

    start_s: float
    event_times_s: tuple[float, ...]
    end_s: float
    status: int | None
    completion_tokens: int
    error: str | None

    @property
    def e2e_s(self) -> float:
        """Time from the start to the last byte."""
        return self.end_s - self.start_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token; None without a token."""
        return self.event_times_s[0] - self.start_s if self.event_times_s else None

    @property
    def itl_s(self) -> tuple[float, ...]:
        """Gaps between token-bearing events, in order."""
        return tuple(after - before for before, after in pairwise(self.event_times_s))

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        if self.ttft_s is None or self.completion_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.completion_tokens - 1)


class AnswerReader(ABC):
    """Reads one answer from the bytes of its connection; a subclass per kind of answer."""

    __slots__ = ("_error", "_refusal", "_response", "_times_s", "_tokens")

    def __init__(self) -> None:
        self._response = ResponseParser()
        self._times_s: list[float] = []
        self._tokens = 0
        self._error: str | None = None
        self._refusal = bytearray()

    @property
    def complete(self) -> bool:
        """Whether the response has ended, successfully or not."""
        return self._response.complete

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self._response.complete and self._response.keep_alive

    def feed(self, data: bytes, now_s: float) -> None:
        """Process the next bytes, all of which arrived at `now_s`.

        Raises:
            MalformedResponseError: The bytes are not an HTTP response, or a body is not JSON.
        """
        body = self._response.feed(data)
        if self._response.status == 200:
            self._take_body(body, now_s)
        else:
            self._refusal += body[:MAX_ERROR_CHARACTERS]

    def close(self) -> None:
        """Process the end of the connection.

        Raises:
            MalformedResponseError: The response was incomplete.
        """
        self._response.close()

    def record(self, *, start_s: float, end_s: float, failure: str | None = None) -> RequestRecord:
        """Return the record. `failure` is an error outside the answer itself."""
        error = failure or self._error or self._refused() or self._missing()
        return RequestRecord(
            start_s=start_s,
            event_times_s=tuple(self._times_s),
            end_s=end_s,
            status=self._response.status,
            completion_tokens=self._tokens,
            error=error and error[:MAX_ERROR_CHARACTERS],
        )

    def _refused(self) -> str | None:
        if self._response.status == 200:
            return None
        return f"status {self._response.status}: {self._refusal.decode('utf-8', 'replace')}"

    @abstractmethod
    def _take_body(self, body: bytes, now_s: float) -> None:
        """Process the next body bytes of a response with status 200."""

    @abstractmethod
    def _missing(self) -> str | None:
        """Return what a complete answer of status 200 lacks, or None."""


class StreamReader(AnswerReader):
    """Reads a streamed OpenAI answer: parses each event and notes its arrival if it has a token."""

    __slots__ = ("_done", "_events")

    def __init__(self) -> None:
        super().__init__()
        self._events = EventParser()
        self._done = False

    def _missing(self) -> str | None:
        if not self._done:
            return "the stream ended without [DONE]"
        return None if self._tokens else "no usage event, or no tokens in it"

    def _take_body(self, body: bytes, now_s: float) -> None:
        for event in self._events.feed(body):
            self._take(event, now_s)

    def _take(self, event: bytes, now_s: float) -> None:
        if event == b"[DONE]":
            self._done = True
            return
        payload = _parsed(event, "an event")
        if failure := payload.get("error"):
            self._error = f"error frame: {failure}"
        if usage := payload.get("usage"):
            self._tokens = usage.get("completion_tokens", 0)
        if any(_bears_token(choice) for choice in payload.get("choices", ())):
            self._times_s.append(now_s)


class WholeReader(AnswerReader):
    """Reads an unstreamed OpenAI answer, one JSON object. Its record has no event times."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()

    def _missing(self) -> str | None:
        return None if self._tokens else "no usage, or no tokens in it"

    def _take_body(self, body: bytes, now_s: float) -> None:
        del now_s
        self._body += body
        if self.complete:
            payload = _parsed(bytes(self._body), "the answer")
            self._tokens = (payload.get("usage") or {}).get("completion_tokens", 0)
            if not payload.get("choices"):
                self._error = "no choices"


def _parsed(text: bytes, noun: str) -> dict[str, Any]:
    try:
        payload = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedResponseError(f"{noun} is not JSON: {text[:80]!r}") from error
    if not isinstance(payload, dict):
        raise MalformedResponseError(f"{noun} is not an object: {text[:80]!r}")
    return payload


def _bears_token(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(delta.get(field) for field in _TOKEN_FIELDS))
