"""Targets of a generation: the local model and others. Values and protocols only.

Values and protocols only. `Routing` chooses among ways; `Overflow` knows those that lead outside.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.engine import Delta, EngineError, GenerationRequest, Usage
from serving.answering.resume.continuation import Break
from serving.attempts import ExternalRoute, Forecast
from serving.domain.calls import Call, GenerationCall
from serving.domain.errors import RingfenceError
from serving.domain.quota import Quota
from serving.domain.route import LOCAL_ROUTE, Origin
from serving.egress.ledger.chain import Entry


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """An answer in progress, and what is left of the caller's limits.

    Attributes:
        deltas: the answer.
        quota: what is left.
        given: where the answer comes from. Asked when it is given to the client, within the scope
            of the answer, since its receipt is made then, and kept as it was made.
    """

    deltas: AsyncGenerator[Delta, None]
    quota: Quota
    given: Callable[[], Origin]


class Generator(Protocol):
    """Answers, as `Engine.generate` does."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A target of a request. `external` is None for the local model.

    One that goes on with an answer comes `again`: its request is counted already.
    """

    engine: Generator
    forecast: Forecast
    external: ExternalRoute | None = None
    again: bool = False

    @property
    def route(self) -> str:
        """The route as clients and the ledger see it."""
        return LOCAL_ROUTE if self.external is None else self.external.route


class Fallback(Protocol):
    """The other targets of one request. It is told how each ends, so that it can explain."""

    @property
    def preferred(self) -> bool:
        """Whether they are tried before the local model."""
        ...

    def handles(self, error: RingfenceError | EngineError) -> bool:
        """Whether they are tried after this error of the local model."""
        ...

    @property
    def patience_s(self) -> float:
        """How long the local model may take for its first delta where another target can answer."""
        ...

    async def can_take(self, broken: Break | None = None) -> bool:
        """Whether one of them would be asked now if the local model were given up.

        Another request may still be faster: nothing is reserved.

        Args:
            broken: where the answer broke off that the local model goes on with; None if the local
                model is at its beginning.
        """
        ...

    @property
    def departures(self) -> Sequence[Entry]:
        """The ledger entries of what has left for the request, in order."""
        ...

    def targets(self) -> AsyncGenerator[Target, None]:
        """Yield the targets in their order; none if no provider can take this request."""
        ...

    def resume(self, broken: Break) -> AsyncGenerator[Target, None]:
        """The ways that go on with an answer that broke off, in their order; as `targets`."""
        ...

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        """Note that a target, the local one included, failed before its first delta."""
        ...

    async def close(self) -> None:
        """End the request. Returns soon, whatever is down."""
        ...


class Overflow(Protocol):
    """Knows what other ways requests have."""

    def fallback(self, call: GenerationCall, forecast: Forecast) -> Fallback | None:
        """Return the other targets of a request; None if it may not leave at all."""
        ...


class ReceiptIssuer(Protocol):
    """Signs where answers come from."""

    def receipt(self, call: Call, route: str, departures: Sequence[Entry]) -> str:
        """The signed statement of an answer that is given, and of what left for it by now."""
        ...
