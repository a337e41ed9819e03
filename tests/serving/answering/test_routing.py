"""Routing: clients do not see failures before the first delta while another way is left."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from models.catalog import Price
from models.engine import (
    EngineError,
    EngineFailed,
    EngineUnavailable,
    GenerationRequest,
    RequestRejected,
)
from serving.accounting.pricing import Tariff
from serving.admission.fair_queue import FairQueue
from serving.answering.resume.continuation import Break
from serving.answering.routing import GeneratedAnswer, Routing, Target
from serving.answering.targets import Fallback, Overflow, ReceiptIssuer
from serving.attempts import NO_TOKENS, ExternalRoute, Forecast
from serving.domain.calls import Call, GenerationCall
from serving.domain.errors import RingfenceError
from serving.domain.route import Origin
from serving.egress.ledger.chain import Entry
from tests.serving.conftest import SPECS
from tests.serving.fakes import HELLO, ROLE, WHOLE, FakeEmbedder, ScriptedEngine, chat_frame
from tests.serving.test_pipeline import ANYONE
from tests.serving.wired import Wire

ELSEWHERE = chat_frame({"content": "from elsewhere"})
AWAY = (ROLE, ELSEWHERE, *WHOLE[2:])
DOWN = EngineUnavailable("The model is not available now.")
TARIFF = Tariff.of(SPECS[0].model_copy(update={"price": Price(output_per_million=1_000_000)}))


@dataclass
class FakeFallback(Fallback):
    """Targets that were given, and what became of them."""

    engines: Sequence[ScriptedEngine]
    preferred: bool = False
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    closed: int = 0
    departures: Sequence[Entry] = ()
    patience_s: float = 5.0
    able: list[bool] = field(default_factory=list)
    """What `can_take` says, one after the other; the last for ever, yes if there is none."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def handles(self, error: RingfenceError | EngineError) -> bool:
        return not isinstance(error, RequestRejected)

    def resume(self, broken: Break) -> AsyncGenerator[Target, None]:
        raise AssertionError(f"an answer that may not go on was gone on with: {broken.number}")

    async def can_take(self, broken: Break | None = None) -> bool:
        assert broken is None
        self.asked.set()
        return (self.able.pop(0) if len(self.able) > 1 else self.able[0]) if self.able else True

    async def targets(self) -> AsyncGenerator[Target, None]:
        for at, engine in enumerate(self.engines):
            external = ExternalRoute(f"overflow:p{at}", TARIFF, again=not self.preferred)
            yield Target(engine, NO_TOKENS, external)

    def failed(self, target: Target, error: RingfenceError | EngineError) -> None:
        self.outcomes.append((target.route, type(error).__name__))

    async def close(self) -> None:
        self.closed += 1


@dataclass
class FakeOverflow(Overflow):
    """The same detour for every request, or none."""

    way_round: FakeFallback | None

    def fallback(self, call: GenerationCall, forecast: Forecast) -> FakeFallback | None:
        del call, forecast
        return self.way_round


@dataclass
class FakeNotary(ReceiptIssuer):
    """A signer that returns names as signatures."""

    def receipt(self, call: Call, route: str, departures: Sequence[Entry]) -> str:
        return f"{call.model} by {route} after {len(departures)}"


Ask = Callable[..., Any]


@pytest.fixture
def ask(wire: Wire) -> Ask:
    def build(here: ScriptedEngine, fallback: FakeFallback | None) -> Any:
        engines = {"chat": here, "other": ScriptedEngine()}
        _, admission_parts, _ = wire(SPECS, engines, {"embed": FakeEmbedder()})
        routing = Routing(
            attempts=admission_parts.attempts,
            engines=engines,
            overflow=FakeOverflow(fallback),
            receipt_issuer=FakeNotary(),
        )
        call = GenerationCall(
            request_id=secrets.token_hex(8),
            principal=replace(ANYONE, privacy="scrubbed"),
            model="chat",
            privacy="scrubbed",
            kind="chat",
            body={"messages": []},
            stream=True,
        )
        request = GenerationRequest("r1", "chat", call.body)
        return (admission_parts, call.request_id), routing.answer(call, request, NO_TOKENS)

    return build


async def told(answering: Any) -> tuple[Origin, list[bytes]]:
    generation: GeneratedAnswer
    async with answering as generation:
        return generation.given(), [delta async for delta in generation.deltas]


async def rows(asked: Any) -> list[tuple[str, str]]:
    admission_parts, request_id = asked
    found = await admission_parts.ledger.attempts_of("acme", request_id)
    return [(one.route, one.outcome) for one in found]


async def test_model_here_answers_while_it_can(ask: Ask) -> None:
    away = ScriptedEngine(*AWAY)
    _, answering = ask(ScriptedEngine(*WHOLE), FakeFallback([away]))
    origin, deltas = await told(answering)
    assert origin == Origin("scrubbed", "local", "chat by local after 0")
    assert (HELLO in deltas, away.requests) == (True, [])


async def test_failure_before_the_first_delta_is_answered_elsewhere(ask: Ask) -> None:
    fallback = FakeFallback([ScriptedEngine(*AWAY)])
    admission_parts, answering = ask(ScriptedEngine(DOWN), fallback)
    origin, deltas = await told(answering)
    assert origin == Origin("scrubbed", "overflow:p0", "chat by overflow:p0 after 0")
    assert ELSEWHERE in deltas
    assert (fallback.outcomes, fallback.closed) == ([("local", "EngineUnavailable")], 1)
    assert await rows(admission_parts) == [("local", "model_unavailable"), ("overflow:p0", "ok")]


async def test_ways_are_tried_in_their_order(ask: Ask) -> None:
    fallback = FakeFallback([ScriptedEngine(EngineFailed("No.")), ScriptedEngine(*AWAY)])
    _, answering = ask(ScriptedEngine(DOWN), fallback)
    origin, _ = await told(answering)
    assert origin.route == "overflow:p1"
    assert [route for route, _ in fallback.outcomes] == ["local", "overflow:p0"]


async def test_error_of_the_model_here_is_told_when_nothing_helps(ask: Ask) -> None:
    fallback = FakeFallback([ScriptedEngine(EngineFailed("Theirs."))])
    _, answering = ask(ScriptedEngine(DOWN), fallback)
    with pytest.raises(EngineUnavailable, match="not available now"):
        await told(answering)


async def test_request_that_is_wrong_is_not_taken_elsewhere(ask: Ask) -> None:
    away = ScriptedEngine(*AWAY)
    _, answering = ask(ScriptedEngine(RequestRejected("Bad.", param="stop")), FakeFallback([away]))
    with pytest.raises(RequestRejected):
        await told(answering)
    assert away.requests == []


async def test_request_without_a_detour_fails_as_it_does_here(ask: Ask) -> None:
    _, answering = ask(ScriptedEngine(DOWN), None)
    with pytest.raises(EngineUnavailable):
        await told(answering)


async def test_surge_goes_elsewhere_first_and_comes_here_when_that_fails(ask: Ask) -> None:
    here = ScriptedEngine(*WHOLE)
    fallback = FakeFallback([ScriptedEngine(EngineFailed("No."))], preferred=True)
    _, answering = ask(here, fallback)
    origin, deltas = await told(answering)
    assert (origin.route, HELLO in deltas) == ("local", True)
    fallback = FakeFallback([ScriptedEngine(*AWAY)], preferred=True)
    _, answering = ask(here, fallback)
    assert (await told(answering))[0].route == "overflow:p0"


async def test_ways_that_failed_first_are_not_tried_again(ask: Ask) -> None:
    away = ScriptedEngine(EngineFailed("No."))
    _, answering = ask(ScriptedEngine(DOWN), FakeFallback([away], preferred=True))
    with pytest.raises(EngineUnavailable):
        await told(answering)
    assert len(away.requests) == 1


async def test_model_that_takes_too_long_to_begin_is_given_up(ask: Ask) -> None:
    here = ScriptedEngine(asyncio.Event())
    fallback = FakeFallback([ScriptedEngine(*AWAY)], patience_s=0.05)
    _, answering = ask(here, fallback)
    origin, _ = await told(answering)
    assert (origin.route, here.open) == ("overflow:p0", 0)
    assert fallback.outcomes == [("local", "EngineTimeout")]


async def test_model_that_takes_long_is_waited_for_while_nobody_else_can_take_the_request(
    ask: Ask,
) -> None:
    gate = asyncio.Event()
    away = ScriptedEngine(*AWAY)
    fallback = FakeFallback([away], patience_s=0.01, able=[False])
    _, answering = ask(ScriptedEngine(gate, *WHOLE), fallback)
    asking = asyncio.create_task(told(answering))
    async with asyncio.timeout(20):
        await fallback.asked.wait()
        gate.set()
        assert (await asking)[0].route == "local"
    assert away.requests == []


async def test_model_that_takes_long_is_given_up_as_soon_as_somebody_else_can_take_the_request(
    ask: Ask,
) -> None:
    here = ScriptedEngine(asyncio.Event())
    fallback = FakeFallback([ScriptedEngine(*AWAY)], patience_s=0.01, able=[False, False, True])
    _, answering = ask(here, fallback)
    async with asyncio.timeout(20):
        origin, _ = await told(answering)
    assert (origin.route, fallback.able) == ("overflow:p0", [True])


async def test_model_here_has_its_full_time_after_others_failed_first(ask: Ask) -> None:
    away = ScriptedEngine(EngineFailed("No."))
    fallback = FakeFallback([away], preferred=True, patience_s=0.01)
    _, answering = ask(ScriptedEngine(0.3, *WHOLE), fallback)
    assert (await told(answering))[0].route == "local"
    assert not fallback.asked.is_set()


async def test_failure_after_the_first_delta_stays_with_who_began(ask: Ask) -> None:
    away = ScriptedEngine(*AWAY)
    _, answering = ask(ScriptedEngine(ROLE, EngineFailed("Cut.")), FakeFallback([away]))
    with pytest.raises(EngineFailed):
        await told(answering)
    assert away.requests == []


async def test_full_queue_is_no_end_where_there_is_another_way(ask: Ask) -> None:
    fallback = FakeFallback([ScriptedEngine(*AWAY)])
    admission_parts, answering = ask(ScriptedEngine(*WHOLE), fallback)
    queue = FairQueue(slots=1, max_waiting=0, max_wait_s=1)
    admission_parts[0].admission.queues = {"chat": queue}
    async with queue.slot("somebody"):
        origin, _ = await told(answering)
    assert origin.route == "overflow:p0"
    assert fallback.outcomes == [("local", "Overloaded")]
