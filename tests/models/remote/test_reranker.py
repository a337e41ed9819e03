from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Self

import pytest

from models.engine import EngineFailed, EngineTimeout, Failure
from models.remote.reranker import RemoteReranker


class FakeHandle:
    """A handle with one delayed answer; it is also its own method and response."""

    def __init__(self, answer: list[float] | Failure, *, after_s: float = 0) -> None:
        self.rerank = self
        self.asked: list[Any] = []
        self.cancelled = False
        self._answer = answer
        self._after_s = after_s

    def remote(self, *arguments: Any) -> Self:
        self.asked.append(arguments)
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, list[float] | Failure]:
        yield from asyncio.sleep(self._after_s).__await__()
        return self._answer


async def test_scores_of_the_deployment_are_returned() -> None:
    handle = FakeHandle([0.25, 0.5])
    assert await RemoteReranker(handle, timeout_s=1).rerank("why", ("a", "b")) == [0.25, 0.5]
    assert handle.asked == [("why", ["a", "b"])]
    assert not handle.cancelled


async def test_failure_becomes_our_error() -> None:
    handle = FakeHandle(Failure(EngineFailed, "The reranking model failed."))
    with pytest.raises(EngineFailed, match="reranking model failed"):
        await RemoteReranker(handle, timeout_s=1).rerank("why", ["a"])


async def test_answer_that_does_not_come_is_cancelled_at_the_deadline() -> None:
    handle = FakeHandle([0.5], after_s=5)
    with pytest.raises(EngineTimeout):
        await RemoteReranker(handle, timeout_s=0.01).rerank("why", ["a"])
    assert handle.cancelled
