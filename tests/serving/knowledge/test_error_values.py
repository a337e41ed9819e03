"""Answers between processes: errors are raised again here, and no text is logged."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import Any, cast

import pytest
from ray.serve.handle import DeploymentResponse

from models.engine import EngineFailed, EngineUnavailable, Failure, RequestRejected
from rag.errors import EmbedderMismatch, IndexUnavailable, NotThere, RagError, Refused, TooMany
from serving.knowledge.error_values import Refusal, from_wire, told
from serving.storage.errors import DatabaseUnavailable


class Response:
    """The response of a handle: if awaited, it answers after some seconds, or fails."""

    def __init__(self, answer: object, *, after_s: float = 0.0) -> None:
        self.answer, self.after_s = answer, after_s
        self.cancelled = False

    def __await__(self) -> Any:
        return self._come().__await__()

    def cancel(self) -> None:
        self.cancelled = True

    async def _come(self) -> object:
        await asyncio.sleep(self.after_s)
        return pickle.loads(pickle.dumps(self.answer))  # noqa: S301  It was pickled here.


async def hear(response: Response, *, timeout_s: float = 5.0) -> object:
    return await from_wire(cast("DeploymentResponse[Any]", response), timeout_s=timeout_s)


async def fails(error: Exception) -> None:
    raise error


async def test_answer_arrives_as_it_is() -> None:
    async def work() -> list[int]:
        return [1, 2]

    assert await hear(Response(await told(work()))) == [1, 2]


@pytest.mark.parametrize("error", [NotThere, Refused, TooMany, EmbedderMismatch, IndexUnavailable])
async def test_error_of_retrieval_arrives_with_its_message_and_field(error: type[RagError]) -> None:
    value = await told(fails(error("Say this.", param="model")))
    with pytest.raises(error) as raised:
        await hear(Response(value))
    assert (raised.value.message, raised.value.param) == ("Say this.", "model")
    assert type(raised.value) is error


async def test_error_of_an_engine_arrives_as_one() -> None:
    value = await told(fails(RequestRejected("Too long.", param="input")))
    with pytest.raises(RequestRejected, match="Too long"):
        await hear(Response(value))


async def test_database_that_does_not_answer_is_told_without_its_address() -> None:
    value = await told(fails(DatabaseUnavailable("postgresql://secret@host")))
    assert isinstance(value, Refusal)
    assert value.error is IndexUnavailable
    assert "secret" not in value.message


async def test_unknown_error_is_told_and_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        value = await told(fails(ZeroDivisionError("text of a document")))
    assert value == Failure(EngineFailed, "Retrieval failed.")
    assert "ZeroDivisionError" in caplog.text
    assert "document" not in caplog.text


async def test_process_that_does_not_answer_in_time_is_unavailable() -> None:
    with pytest.raises(IndexUnavailable):
        await hear(Response(None, after_s=5.0), timeout_s=0.05)


async def test_process_that_is_not_there_is_unavailable() -> None:
    value = Failure.of(EngineUnavailable("gone"))
    with pytest.raises(IndexUnavailable):
        await hear(Response(value))
