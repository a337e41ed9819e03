"""The state of a served model, as the gateway and those who watch the engines tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

RETRIEVAL = "(retrieval)"
"""Key of the state of vector search among the states of models. No model has this id."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether a model can answer, and why not. If not `known`, the state is a guess."""

    state: Literal["loading", "ready", "failed"]
    reason: str | None = None
    known: bool = True


class Readiness(Protocol):
    """Knows the state of every served model."""

    async def __call__(self) -> dict[str, ModelState]:
        """States by model id."""
        ...
