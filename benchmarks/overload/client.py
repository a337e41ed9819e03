"""Sends arrivals of several tenants to one server and keeps what each was answered, refusals too.

An open loop as `benchmarks.client.load_client`'s, with three things more: arrivals are given,
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
"""Status and code of a request for which there is no room; any other error is a failure."""

_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CODE = re.compile(r'"code":\s*"(\w+)"')


@dataclass(frozen=True, slots=True)
class Request:
    """An encoded request, with the key of its tenant. `at_s` counts from the load's beginning."""

    at_s: float
    tenant: str
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        at_s: When it was due, from the beginning of the load.
        tenant: On whose account.
        record: Its times and outcome; it starts when it was due.
        held_s: How long after that the client came to send it.
        retry_after_s: Of a refusal that has the header.
    """

    at_s: float
    tenant: str
    record: RequestRecord
    held_s: float
    retry_after_s: float | None

    @property
    def served(self) -> bool:
        """Answered whole."""
        return self.record.error is None

    @property
    def refused(self) -> bool:
        """Told that there is no place, before anything else."""
        return self.outcome in REFUSALS

    @property
    def failed(self) -> bool:
        """Neither."""
        return not self.served and not self.refused

    @property
    def outcome(self) -> str:
        """Status and the error's code, as `503 overloaded`; else why it failed."""
        if self.served:
            return "200"
        code = _CODE.search(self.record.error or "")
        if self.record.status in {None, 200} or code is None:
            return self.record.error or ""
        return f"{self.record.status} {code[1]}"


def outcomes(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers had each outcome, the most frequent first."""
    return dict(Counter(answer.outcome for answer in answers).most_common())


class RefusalReader(StreamReader):
    """Reads a stream, and of a refusal when to come back."""

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
    """Send each request when it is due, whatever became of those before it.

    While all connections are taken a request waits for one; that counts, as it starts when it was
    due.

    Args:
        target: Where to connect. Each request has its own key already.
        requests: In order of time.
        connections: The most that are open at once.
        deadline_s: Of one request, from when it was due.

    Returns:
        One answer for each request, in order.
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
