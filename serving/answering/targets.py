"""Targets that can answer a generation: the local model and others; and what is told of each.

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
class Generation:
    """An answer on its way, and what is left of the caller's limits.

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
    """One way to answer a request. `external` of None is the model here.

    One that goes on with an answer comes `again`: its request is counted already.
    """

    engine: Generator
    forecast: Forecast
    external: ExternalRoute | None = None
    again: bool = False

    @property
    def route(self) -> str:
        """As clients and the ledger are told."""
        return LOCAL_ROUTE if self.external is None else self.external.route


class Fallback(Protocol):
    """The other ways of one request. It is told what becomes of each, so that it can explain."""

    @property
    def preferred(self) -> bool:
        """Whether they are tried before the model here."""
        ...

    def handles(self, error: RingfenceError | EngineError) -> bool:
        """Whether they are tried now that the model here failed like this."""
        ...

    @property
    def patience_s(self) -> float:
        """How long the model here may take for its first delta."""
        ...

    @property
    def departures(self) -> Sequence[Entry]:
        """What has left for the request, in order."""
        ...

    def targets(self) -> AsyncGenerator[Target, None]:
        """In their order, each when it is its turn; none when nobody can take this request."""
        ...

    def resume(self, broken: Break) -> AsyncGenerator[Target, None]:
        """The ways that go on with an answer that broke off, in their order; as `targets`."""
        ...

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        """A way, the one here too, came to nothing before its first delta."""
        ...

    async def close(self) -> None:
        """The request has ended. Returns soon, whatever is down."""
        ...


class Overflow(Protocol):
    """Knows what other ways requests have."""

    def fallback(self, call: GenerationCall, forecast: Forecast) -> Fallback | None:
        """Those of a request; None when it may not leave at all."""
        ...


class ReceiptIssuer(Protocol):
    """Signs where answers come from."""

    def receipt(self, call: Call, route: str, departures: Sequence[Entry]) -> str:
        """The signed statement of an answer that is given, and of what left for it by now."""
        ...
