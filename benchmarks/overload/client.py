"""Sends the arrivals of several tenants to one server, and records answers and refusals.

An open loop like that of `benchmarks.client.load_client`, except that arrivals are given,
connections are bounded, and a refusal's `retry-after` is read.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

from benchmarks.client.load_client import Target, _Stream
from benchmarks.client.records import RequestRecord, StreamReader

REFUSALS = frozenset({"429 rate_limit_exceeded", "503 overloaded"})
"""Status and code of a refusal for lack of capacity; any other error is a failure."""

_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CODE = re.compile(r'"code":\s*"(\w+)"')


@dataclass(frozen=True, slots=True)
class Request:
    """An encoded request with its tenant's key. `at_s` counts from the start of the load."""

    at_s: float
    tenant: str
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request.

    Attributes:
        at_s: When the request was due, from the start of the load.
        tenant: The tenant that sent it.
        record: Times and outcome; its start is when the request was due.
        held_s: Delay between the due time and the sending.
        retry_after_s: The `retry-after` of a refusal; None without the header.
    """

    at_s: float
    tenant: str
    record: RequestRecord
    held_s: float
    retry_after_s: float | None

    @property
    def served(self) -> bool:
        """Whether the answer was complete."""
        return self.record.error is None

    @property
    def refused(self) -> bool:
        """Whether the request was refused for lack of capacity."""
        return self.outcome in REFUSALS

    @property
    def failed(self) -> bool:
        """Whether the request was neither served nor refused."""
        return not self.served and not self.refused

    @property
    def outcome(self) -> str:
        """Status and error code, such as `503 overloaded`; without a code, the failure."""
        if self.served:
            return "200"
        code = _CODE.search(self.record.error or "")
        if self.record.status in {None, 200} or code is None:
            return self.record.error or ""
        return f"{self.record.status} {code[1]}"


def outcomes(answers: Iterable[Answer]) -> dict[str, int]:
    """Count the outcomes, most frequent first."""
    return dict(Counter(answer.outcome for answer in answers).most_common())


class RefusalReader(StreamReader):
    """Reads a streamed answer, and the `retry-after` of a refusal."""

    __slots__ = ("_head", "retry_after_s")

    def __init__(self) -> None:
        super().__init__()
        self._head = b""
        self.retry_after_s: float | None = None

    def feed(self, data: bytes, now_s: float) -> None:
        """See `AnswerReader.feed`."""
        in_head = self._response.status is None
        if in_head:
            self._head += data
        super().feed(data, now_s)
        if in_head and self._response.status is not None:
            fields = self._head.partition(b"\r\n\r\n")[0] + b"\r\n"
            found = _RETRY_AFTER.search(fields)
            self.retry_after_s = float(found[1]) if found else None


class _Line:
    """A kept-alive connection, with the reader of its last answer."""

    def __init__(self, target: Target) -> None:
        self.reader = RefusalReader()
        self.stream = _Stream(target, self._next_reader)

    def _next_reader(self) -> RefusalReader:
        self.reader = RefusalReader()
        return self.reader


async def send(
    target: Target, requests: Sequence[Request], *, connections: int, deadline_s: float
) -> tuple[Answer, ...]:
    """Send each request when it is due, whatever happened to earlier ones.

    A request that waits for a free connection counts from its due time, so the wait is included.

    Args:
        target: The endpoint to connect to. Each request already contains its key.
        requests: Requests in order of time.
        connections: Maximum number of open connections.
        deadline_s: Deadline of one request in seconds, from when it was due.

    Returns:
        One answer per request, in order.
    """
    idle: list[_Line] = []
    opened: list[_Line] = []
    free = asyncio.Semaphore(connections)
    begin_s = perf_counter()

    async def exchange(request: Request) -> Answer:
        due_s = begin_s + request.at_s
        async with free:
            if not idle:
                opened.append(_Line(target))
                idle.append(opened[-1])
            line = idle.pop()
            held_s = perf_counter() - due_s
            record = await line.stream.exchange(request.encoded, due_s, deadline_s)
            retry_after_s = line.reader.retry_after_s
            idle.append(line)
        return Answer(request.at_s, request.tenant, record, held_s, retry_after_s)

    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                await asyncio.sleep(begin_s + request.at_s - perf_counter())
                tasks.append(group.create_task(exchange(request)))
    finally:
        for line in opened:
            line.stream.close()
    return tuple(task.result() for task in tasks)
