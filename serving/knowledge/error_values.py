"""Answers across processes: errors as values, because Ray logs raised ones with their text."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ray.serve.handle import DeploymentResponse

from models.engine import (
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    Failure,
)
from models.remote.engine import answer_of
from rag.errors import IndexUnavailable, RagError
from serving.storage.errors import DatabaseUnavailable

logger = logging.getLogger("ringfence.knowledge")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A `RagError` as a value; see `models.engine.Failure`."""

    error: type[RagError]
    message: str
    param: str | None

    def exception(self) -> RagError:
        """The error this stands for."""
        return self.error(self.message, param=self.param)


Told: TypeAlias = T | Failure | Refusal


async def told(work: Awaitable[T]) -> Told[T]:
    """Return the result of some work, or the value that stands for its error."""
    try:
        return await work
    except RagError as error:
        return Refusal(type(error), error.message, error.param)
    except EngineError as error:
        return Failure.of(error)
    except DatabaseUnavailable:
        return Refusal(IndexUnavailable, "The database does not answer now. Try again soon.", None)
    except Exception as error:  # noqa: BLE001  Its text may hold a document's; Ray would log it.
        logger.error("retrieval failed: %s", type(error).__name__)  # noqa: TRY400
        return Failure(EngineFailed, "Retrieval failed.")


async def from_wire(response: DeploymentResponse[Told[T]], *, timeout_s: float) -> T:
    """Await what `told` returned in the other process, within a deadline.

    Raises:
        RagError, EngineError: what came back.
        IndexUnavailable: nobody answers.
    """
    try:
        answer: T | Refusal = await answer_of(response, timeout_s=timeout_s)
    except (EngineTimeout, EngineUnavailable, EngineOverloaded):
        raise IndexUnavailable("Retrieval does not answer now. Try again soon.") from None
    if isinstance(answer, Refusal):
        raise answer.exception()
    return answer
