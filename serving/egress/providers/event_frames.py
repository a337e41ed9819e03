"""Cuts a byte stream into whole server-sent events, whatever pieces it comes in, within bounds.

The parsers of the official clients hold back what they have read without a bound.
"""

from __future__ import annotations

import re

from serving.egress.providers.provider import ProviderBroken

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_EVENT_END = re.compile(_LINE_END * 2)
_ANY_LINE_END = re.compile(rb"\r\n?")


class EventFrames:
    """The events of one stream (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Args:
        max_event_bytes: of one event.
        max_events: of the stream; a comment counts as one.
    """

    def __init__(self, *, max_event_bytes: int, max_events: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._max_events = max_events
        self._rest = bytearray()
        self._events = 0

    def feed(self, piece: bytes) -> bytes:
        """The events that are whole by now, each with a blank line, lines ended by line feeds.

        Raises:
            ProviderBroken: more or larger events than allowed.
        """
        start = max(0, len(self._rest) - 1)  # The last byte of a line end is one by itself.
        self._rest += piece
        end = 0
        for match in _EVENT_END.finditer(self._rest, start):
            self._count(match.end() - end)
            end = match.end()
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        self._check_size(len(self._rest))
        return _ANY_LINE_END.sub(b"\n", whole) if b"\r" in whole else whole

    def _count(self, size: int) -> None:
        self._events += 1
        if self._events > self._max_events:
            raise ProviderBroken("the answer has too many events", code="endless")
        self._check_size(size)

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise ProviderBroken("an event of the answer is too large", code="event_too_large")
