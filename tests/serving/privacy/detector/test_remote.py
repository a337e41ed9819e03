"""The detector behind a handle: every failure there is `DetectorUnavailable` here."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Self

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from models.engine import EngineFailed, Failure
from serving.privacy.detector.remote import RemoteDetector
from serving.privacy.spans import DetectorUnavailable, Span

TEXTS = ["Anna was here", "nobody"]
FOUND = [[Span(0, 4, "PERSON", 0.9)], []]


class FakeHandle:
    """A handle with one delayed answer; it is also its own method and response."""

    def __init__(self, answer: Any, *, after_s: float = 0) -> None:
        self.detect = self
        self.asked: list[Any] = []
        self.cancelled = False
        self._answer = answer
        self._after_s = after_s

    def remote(self, texts: Any) -> Self:
        self.asked.append(texts)
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(self._after_s).__await__()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def test_answer_of_the_deployment_is_returned() -> None:
    handle = FakeHandle(FOUND)
    assert await RemoteDetector(handle).detect(TEXTS) == FOUND
    assert handle.asked == [TEXTS]


async def test_nothing_to_look_at_asks_nobody() -> None:
    handle = FakeHandle(FOUND)
    assert await RemoteDetector(handle).detect(["", ""]) == [[], []]
    assert handle.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        Failure(EngineFailed, "Anna"),
        BackPressureError(3, 2),
        ActorDiedError(),
        DeploymentUnavailableError("Anna"),  # type: ignore[arg-type, unused-ignore]
        TimeoutError("Anna"),
    ],
)
async def test_every_failure_closes_and_says_no_text(answer: Any) -> None:
    with pytest.raises(DetectorUnavailable) as caught:
        await RemoteDetector(FakeHandle(answer)).detect(TEXTS)
    assert "Anna" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [[]],
        [*FOUND, []],
        [[Span(0, 99, "PERSON")], []],
        [[Span(5, 2, "PERSON")], []],
        [[Span(0, 4, "PERSON"), Span(2, 6, "PERSON")], []],
        [[Span(-3, 4, "PERSON")], []],
    ],
)
async def test_answer_that_does_not_fit_closes(answer: Any) -> None:
    with pytest.raises(DetectorUnavailable, match="something else"):
        await RemoteDetector(FakeHandle(answer)).detect(TEXTS)


async def test_answer_that_does_not_come_is_cancelled_at_the_deadline() -> None:
    handle = FakeHandle(FOUND, after_s=5)
    with pytest.raises(DetectorUnavailable, match="EngineTimeout"):
        await RemoteDetector(handle, timeout_s=0.01).detect(TEXTS)
    assert handle.cancelled


async def test_longer_texts_have_more_time() -> None:
    handle = FakeHandle([[]], after_s=0.1)
    assert await RemoteDetector(handle, timeout_s=0.05).detect(["x" * 101_000]) == [[]]


async def test_caller_that_goes_away_cancels_the_call() -> None:
    handle = FakeHandle(FOUND, after_s=5)
    call = asyncio.create_task(RemoteDetector(handle).detect(TEXTS))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert handle.cancelled
