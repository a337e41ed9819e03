"""Interrupted answers: clients that request it get the rest from elsewhere, seamlessly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from models.catalog import ModelSpec, Price
from models.engine import (
    Delta,
    Engine,
    EngineError,
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    GenerationRequest,
    RequestRejected,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.simulated.engine import SimulatedEngine
from serving.answering.resume.continuation import MAX_CONTINUATIONS
from serving.domain.calls import GenerationCall, RequestOptions
from serving.domain.errors import DeadlineExceeded, InvalidRequest
from serving.domain.privacy_class import PrivacyClass
from serving.domain.route import Origin
from serving.gateway.wire.chat import ChatRequest
from serving.gateway.wire.options import ON_FAILURE, on_failure
from serving.privacy.spans import Detector, DetectorUnavailable, Span
from serving.storage.database import Database
from tests.serving.answering.byte_model import ByteModel
from tests.serving.answering.test_provider_candidates import CALLER, MAIL, NAME, WORDS
from tests.serving.conftest import SPECS, Make
from tests.serving.egress.standin import Received, StandIn
from tests.serving.egress.wire_format import Answer, refuses, sse, streams
from tests.serving.fakes import (
    HEAD,
    ROLE,
    STOP,
    USAGE,
    FakeEmbedder,
    ScriptedEngine,
    chat_frame,
    text_frame,
    usage_frame,
)
from tests.serving.live import eventually
from tests.serving.privacy.known_words import KnownWords
from tests.serving.wired import Wire

CUT = EngineFailed("Cut.")
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
PRICED = SPECS[0].model_copy(update={"price": Price(output_per_million=1_000_000)})


def says(text: str) -> Delta:
    return chat_frame({"content": text})


class Replicas(Engine):
    """A model whose requests follow the next script each, and then the last one again."""

    def __init__(self, *scripts: tuple[Any, ...]) -> None:
        self.engines = [ScriptedEngine(*script) for script in scripts]
        self.requests: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        engine = self.engines[min(len(self.requests), len(self.engines) - 1)]
        self.requests.append(request)
        async with aclosing(engine.generate(request)) as items:
            async for item in items:
                yield item

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        return await self.engines[0].tokenize(request)

    async def detokenize(self, token_ids: list[int]) -> str:
        return bytes(token_ids).decode(errors="replace")


BROKEN = (ROLE, says("Hello wor"), CUT)
REST = (ROLE, says("ld"), STOP, usage_frame(5, 1), Usage(5, 1))


def told(deltas: list[Delta]) -> list[dict[str, Any]]:
    return [orjson.loads(one[6:]) for one in b"".join(deltas).split(b"\n\n") if one]


def text_of(events: list[dict[str, Any]]) -> str:
    choices = [choice for one in events for choice in one["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def check_one_answer(events: list[dict[str, Any]]) -> None:
    """Check for one head, one role at the beginning, one finish reason, and nothing internal."""
    assert len({tuple(one[name] for name in HEAD) for one in events}) == 1
    choices = [choice for one in events for choice in one["choices"]]
    assert [at for at, choice in enumerate(choices) if "role" in choice["delta"]] == [0]
    reasons = [choice["finish_reason"] for choice in choices]
    assert [reason is not None for reason in reasons] == [False] * (len(reasons) - 1) + [True]
    assert b"token_ids" not in orjson.dumps(events)


@dataclass
class Gateway:
    """A gateway with a local model, and the outcome of a request."""

    wire: Wire
    engine: Any
    specs: tuple[ModelSpec, ...] = (PRICED, *SPECS[1:])
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.request_id = uuid4().hex
        engines: dict[str, Engine] = {"chat": self.engine, "other": ScriptedEngine()}
        self.pipeline, self.admission_parts, _ = self.wire(
            self.specs, engines, {"embed": FakeEmbedder()}, **self.settings
        )

    def generate(
        self,
        *,
        privacy: PrivacyClass = "local_only",
        options: RequestOptions | None = None,
        **body: Any,
    ) -> Any:
        call = GenerationCall(
            request_id=self.request_id,
            principal=replace(CALLER, privacy=privacy),
            model="chat",
            privacy=privacy,
            kind=body.pop("kind", "chat"),
            body=HI | {"stream_options": {"include_usage": True}} | body,
            stream=True,
            on_failure=body.pop("on_failure", "continue"),
            options=options or RequestOptions(),
        )
        return self.pipeline.generate(
            replace(
                call,
                body={
                    name: value
                    for name, value in call.body.items()
                    if name not in ("on_failure", "kind")
                },
            )
        )

    async def ask(self, **body: Any) -> list[dict[str, Any]]:
        async with self.generate(**body) as answer:
            self.origin: Origin = answer.given()
            return told([delta async for delta in answer.deltas])

    async def rows(self) -> list[tuple[str, str]]:
        await asyncio.sleep(0)
        found = await self.admission_parts.ledger.attempts_of("acme", self.request_id)
        return [(one.route, one.outcome) for one in found]


async def test_answer_that_breaks_off_fails_by_default(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, REST))
    with pytest.raises(EngineFailed):
        await gateway.ask(on_failure="fail")
    assert await gateway.rows() == [("local", "engine_failed")]
    assert "return_token_ids" not in gateway.engine.requests[0].body


async def test_answer_goes_on_where_it_broke_off(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, REST))
    events = await gateway.ask(max_tokens=10, min_tokens=1)
    check_one_answer(events)
    assert text_of(events) == "Hello world"
    _, again = gateway.engine.requests
    assert again.body["messages"] == [
        *HI["messages"], {"role": "assistant", "content": "Hello wor"},
    ]  # fmt: skip
    assert (again.body["continue_final_message"], again.body["add_generation_prompt"]) == (
        True, False,
    )  # fmt: skip
    assert (again.body["max_tokens"], again.body["min_tokens"]) == (9, 0)


async def test_every_attempt_is_billed_and_the_client_is_told_their_sum(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, REST))
    events = await gateway.ask()
    await asyncio.sleep(0)
    rows = await gateway.admission_parts.ledger.attempts_of("acme", gateway.request_id)
    assert [(row.outcome, row.completion_tokens) for row in rows] == [
        ("engine_failed", 1), ("ok", 1),
    ]  # fmt: skip
    assert [row.cost_nanos > 0 for row in rows] == [True, True]
    prompt = sum(row.prompt_tokens for row in rows)
    usage = events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        prompt, 2, prompt + 2,
    )  # fmt: skip


async def test_usage_is_not_told_unasked(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, REST))
    events = await gateway.ask(stream_options=None)
    assert all(one["choices"] for one in events)


async def test_answer_that_does_not_break_off_is_as_it_would_be(wire: Wire) -> None:
    script = (ROLE, says("Hello"), STOP, usage_frame(), USAGE)
    plain = await Gateway(wire, Replicas(script)).ask(on_failure="fail")
    events = await Gateway(wire, Replicas(script)).ask()
    assert events[:-1] == plain[:-1]
    assert plain[-1]["usage"].items() <= events[-1]["usage"].items()


async def test_failure_before_any_text_begins_anew(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas((ROLE, CUT), (ROLE, says("Hello"), STOP, USAGE)))
    events = await gateway.ask(max_tokens=10)
    check_one_answer(events)
    assert text_of(events) == "Hello"
    body = gateway.engine.requests[1].body
    assert (body["messages"], body["max_tokens"]) == (HI["messages"], 10)


async def test_failure_before_the_first_delta_of_a_continuation_is_not_seen(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, (EngineUnavailable("Dead."),), REST))
    events = await gateway.ask()
    assert text_of(events) == "Hello world"
    assert [outcome for _, outcome in await gateway.rows()] == [
        "engine_failed", "model_unavailable", "ok",
    ]  # fmt: skip


async def test_continuations_are_bounded(wire: Wire) -> None:
    scripts = [(ROLE, says(f"{at} "), CUT) for at in range(9)]
    gateway = Gateway(wire, Replicas(*scripts))
    with pytest.raises(EngineFailed, match="Cut"):
        await gateway.ask()
    assert len(gateway.engine.requests) == 1 + MAX_CONTINUATIONS
    assert [outcome for _, outcome in await gateway.rows()] == ["engine_failed"] * 4


async def test_error_of_who_broke_off_is_told_when_nobody_goes_on(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas((ROLE, says("a"), EngineTimeout("Slow.")), (CUT,)))
    with pytest.raises(EngineTimeout):
        await gateway.ask()
    assert len(gateway.engine.requests) == 1 + MAX_CONTINUATIONS


TOOL = chat_frame({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]})


@pytest.mark.parametrize(
    ("script", "body"),
    [
        (BROKEN, {"n": 2}),
        (BROKEN, {"response_format": {"type": "json_object"}}),
        (BROKEN, {"logprobs": True}),
        ((text_frame("a"), CUT), {"kind": "completion", "prompt": "Hi"}),
        ((ROLE, TOOL, CUT), {}),
        ((ROLE, chat_frame({"reasoning_content": "Hm"}), CUT), {}),
        ((ROLE, says("a"), RequestRejected("Bad.", param="stop")), {}),
    ],
    ids=["choices", "format", "logprobs", "completion", "tool", "reasoning", "rejected"],
)
async def test_answer_that_cannot_go_on_fails(
    wire: Wire, script: tuple[Any, ...], body: dict[str, Any]
) -> None:
    gateway = Gateway(wire, Replicas(script, REST))
    with pytest.raises(EngineError):
        await gateway.ask(**body)
    assert len(gateway.engine.requests) == 1


async def test_failure_after_the_end_of_an_answer_is_not_seen(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas((ROLE, says("a"), STOP, CUT), REST))
    events = await gateway.ask()
    check_one_answer(events)
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert len(gateway.engine.requests) == 1
    assert await gateway.rows() == [("local", "engine_failed")]


async def test_client_that_goes_away_ends_it(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas((ROLE, says("a"), asyncio.Event()), REST))
    asking = asyncio.create_task(gateway.ask())
    assert await eventually(lambda: gateway.engine.engines[0].open == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await gateway.rows() == [("local", "cancelled")]
    assert gateway.engine.engines[0].open == 0


async def test_client_that_goes_away_in_a_continuation_ends_that(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas(BROKEN, (ROLE, says("ld"), asyncio.Event())))
    asking = asyncio.create_task(gateway.ask())
    assert await eventually(lambda: gateway.engine.engines[1].open == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [outcome for _, outcome in await gateway.rows()] == ["engine_failed", "cancelled"]
    assert gateway.engine.engines[1].open == 0


async def test_deadline_ends_it(wire: Wire) -> None:
    gateway = Gateway(wire, Replicas((ROLE, says("a"), asyncio.Event()), REST))
    with pytest.raises(DeadlineExceeded):
        await gateway.ask(options=RequestOptions(timeout_s=0.2))
    assert len(gateway.engine.requests) == 1


async def test_deadline_is_one_for_all_attempts(wire: Wire) -> None:
    # Each attempt takes less than the client's time, both together take more.
    slow = (ROLE, says("b"), 1.2, STOP, USAGE)
    gateway = Gateway(wire, Replicas((ROLE, says("a"), 1.0, CUT), slow))
    with pytest.raises(DeadlineExceeded):
        await gateway.ask(options=RequestOptions(timeout_s=2.0))


async def test_place_in_the_queue_is_free_between_attempts(wire: Wire) -> None:
    specs = (PRICED.model_copy(update={"max_ongoing_requests": 1}), *SPECS[1:])
    gateway = Gateway(wire, Replicas(BROKEN, REST), specs)
    assert text_of(await gateway.ask()) == "Hello world"


async def test_continuation_is_not_counted_again(wire: Wire) -> None:
    limits = {"admission": {"per_key": {"requests_per_minute": 1}}}
    gateway = Gateway(wire, Replicas(BROKEN, REST), settings=limits)
    assert text_of(await gateway.ask()) == "Hello world"


# By tokens.


@dataclass
class Mortal(Engine):
    """Simulated replicas that die after the given deltas; `deaths` holds the remaining ones."""

    spec: ModelSpec
    deaths: list[int]
    requests: list[GenerationRequest] = field(default_factory=list)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        self.requests.append(request)
        left = self.deaths.pop(0) if self.deaths else None
        async with aclosing(SimulatedEngine(self.spec).generate(request)) as items:
            async for item in items:
                if left == 0:
                    raise EngineUnavailable("Dead.")
                left = None if left is None else left - 1
                yield item

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        return await SimulatedEngine(self.spec).tokenize(request)

    async def detokenize(self, token_ids: list[int]) -> str:
        return await SimulatedEngine(self.spec).detokenize(token_ids)


def hypothesis_over_gateways(function: Any) -> Any:
    checks = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=60, deadline=None, suppress_health_check=checks)(function)


BODIES = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 60),
        "stop": st.sampled_from([" cold", ["ing", "e d"], [" meadow copper", "."]]),
        "seed": st.integers(0, 20),
        "ignore_eos": st.just(value=True),
        "tools": st.just([{"type": "function", "function": {"name": "f"}}]),
    },
).map(lambda body: body if "max_tokens" in body else body | {"max_tokens": 200})


@hypothesis_over_gateways
@given(
    body=BODIES,
    deaths=st.lists(st.integers(1, 40), max_size=MAX_CONTINUATIONS),
    interval=st.sampled_from([1, 3, 64]),
)
async def test_replica_that_dies_changes_no_byte(
    wire: Wire, body: dict[str, Any], deaths: list[int], interval: int
) -> None:
    spec = SPECS[0].model_copy(update={"stream_interval": interval})
    specs = (spec, *SPECS[1:])
    undisturbed = await Gateway(wire, SimulatedEngine(spec), specs).ask(on_failure="fail", **body)
    gateway = Gateway(wire, Mortal(spec, list(deaths)), specs)
    events = await gateway.ask(**body)
    check_one_answer(events)
    assert text_of(events) == text_of(undisturbed)
    assert _end(events) == _end(undisturbed)


def _end(events: list[dict[str, Any]]) -> str:
    return next(
        str(choice["finish_reason"])
        for one in events
        for choice in one["choices"]
        if choice["finish_reason"]
    )


TEXT = "Grüße aus Köln: 😀😀 ha ha ha, STOP or STO and \u0915\u094d\u0937 at last. STOP!"


@hypothesis_over_gateways
@given(
    deaths=st.lists(st.integers(0, 30), max_size=MAX_CONTINUATIONS),
    body=st.fixed_dictionaries(
        {},
        optional={
            "stop": st.sampled_from(["STOP", ["last", "and \u0915"], "ha ha ha,", "no such"]),
            "max_tokens": st.sampled_from([6, 20, 50]),
        },
    ),
    interval=st.sampled_from([1, 2, 7]),
    width=st.sampled_from([1, 3, 5]),
)
async def test_tokens_that_were_not_said_are_produced_again(
    wire: Wire, deaths: list[int], body: dict[str, Any], interval: int, width: int
) -> None:
    spec = SPECS[0].model_copy(update={"stream_interval": interval, "context_tokens": 4096})
    whole = await Gateway(wire, ByteModel(TEXT, [], CUT, width), (spec, *SPECS[1:])).ask(**body)
    model = ByteModel(TEXT, list(deaths), CUT, width)
    events = await Gateway(wire, model, (spec, *SPECS[1:])).ask(**body)
    assert text_of(events) == text_of(whole)
    assert _end(events) == _end(whole)
    assert all(one.kind == "completion" for one in model.requests[1:])


async def test_token_with_half_a_character_is_produced_again(wire: Wire) -> None:
    model = ByteModel("ab😀cdefghijkl", [3], CUT, width=4)
    events = await Gateway(wire, model).ask(stop="no such")
    assert text_of(events) == "ab😀cdefghijkl"
    assert model.requests[1].body["prompt"] == [0, 1, 2]


async def test_continuation_by_tokens_asks_for_the_rest_of_them(wire: Wire) -> None:
    model = ByteModel("Hello world", [5], CUT)
    await Gateway(wire, model).ask(temperature=0.0, seed=3)
    first, again = model.requests
    assert first.body["return_token_ids"] is True
    assert again.request_id != first.request_id
    body = {name: again.body[name] for name in ("temperature", "seed", "cache_salt", "model")}
    assert body == {name: first.body[name] for name in body}
    assert again.body["prompt"] == [0, 1, 2, *range(10, 15)]
    assert "messages" not in again.body


@pytest.mark.parametrize("detokenizes", [None, RequestRejected("No.")])
async def test_token_ids_that_are_not_the_text_are_not_trusted(
    wire: Wire, detokenizes: Exception | None
) -> None:
    frame = says("Hello").replace(b'"finish_reason"', b'"token_ids":[88,89],"finish_reason"')
    role = ROLE.replace(b'"choices"', b'"prompt_token_ids":[1],"choices"')
    gateway = Gateway(wire, Replicas((role, frame, CUT), REST))
    if detokenizes is not None:
        gateway.engine.detokenize = ScriptedEngine(detokenizes).detokenize
    await gateway.ask()
    assert gateway.engine.requests[1].kind == "chat"


# At providers.


@dataclass
class Provider:
    """A provider on a socket, and its configuration."""

    standing: StandIn
    model: dict[str, Any]

    def settings(self, name: str) -> dict[str, Any]:
        model = {"model": "large", "stands_in_for": ["chat"], "context_tokens": 4096}
        return {
            "name": name, "kind": "openai", "base_url": f"{self.standing.url}/v1",
            "api_key": "sk-theirs", "models": [model | {"continuation": True} | self.model],
        }  # fmt: skip


Open = Callable[..., Any]


@pytest.fixture
async def between(wire: Wire, database: Database) -> Any:
    """Open a gateway with a local model and providers: `between(engine, script, ...)`."""
    del database
    standing: list[StandIn] = []

    async def start(
        engine: Any, *scripts: Any, model: Mapping[str, Any] | None = None,
        detector: Detector = WORDS, **overflow: Any,
    ) -> tuple[Gateway, list[StandIn]]:  # fmt: skip
        mine = [StandIn(script) for script in scripts]
        for one in mine:
            await one.start()
        standing.extend(mine)
        told_providers = [
            Provider(one, dict(model or {})).settings(f"p{at}") for at, one in enumerate(mine)
        ]
        told_overflow = {"providers": told_providers, "max_share": 1.0} | overflow
        gateway = Gateway(wire, engine, settings={"detector": detector, "overflow": told_overflow})
        return gateway, mine

    yield start
    for one in standing:
        await one.stop()


def answers(*pieces: str) -> Any:
    return streams(sse(*Answer(pieces=pieces).openai()))


def breaks_off(*pieces: str) -> Any:
    events = Answer(pieces=pieces).openai()[: 1 + len(pieces)]
    return streams(sse(*events, done=False), then=["reset"])


DOWN = EngineUnavailable("Down.")
DIES = Replicas


async def test_provider_goes_on_with_what_was_said_here(between: Open) -> None:
    engine = Replicas((ROLE, says(f"Dear {NAME}, to "), DOWN), (DOWN,))
    gateway, [near] = await between(engine, answers("Dear"))
    pseudonym = ""

    def goes_on(received: Received) -> Any:
        nonlocal pseudonym
        asked = received.json()["messages"]
        pseudonym = asked[0]["content"].split()[-1]
        return answers("to ", pseudonym[:4], pseudonym[4:], " it may concern")

    near.script = [goes_on]
    events = await gateway.ask(
        privacy="scrubbed",
        messages=[{"role": "user", "content": f"Write to {NAME}"}],
        max_tokens=50,
    )
    check_one_answer(events)
    assert text_of(events) == f"Dear {NAME}, to {NAME} it may concern"
    [received] = near.received
    assert received.json()["messages"][-1] == {
        "role": "assistant", "content": f"Dear {pseudonym}, to ",
    }  # fmt: skip
    assert received.json()["max_tokens"] == 49
    assert NAME.encode() not in received.body
    assert (gateway.origin.route, gateway.origin.receipt) == ("local", None)
    assert await gateway.rows() == [
        ("local", "model_unavailable"), ("local", "model_unavailable"), ("overflow:p0", "ok"),
    ]  # fmt: skip


def echoes_in_part(received: Received) -> Any:
    """Break off in the middle of the pseudonym at the end of the request."""
    pseudonym = received.json()["messages"][0]["content"].split()[-1]
    return breaks_off("Dear ", pseudonym, ", dear ", pseudonym[:9])


def goes_on_with_the_rest(received: Received) -> Any:
    said = received.json()["messages"]
    pseudonym = said[0]["content"].split()[-1]
    assert said[-1]["content"] == f"Dear {pseudonym}, dear {pseudonym[:9]}"
    return answers(pseudonym[9:], "!")


def repeats_the_end(received: Received) -> Any:
    said = received.json()["messages"]
    pseudonym = said[0]["content"].split()[-1]
    return answers(", dear ", pseudonym[:3], pseudonym[3:], "!")


@pytest.mark.parametrize("rest", [goes_on_with_the_rest, repeats_the_end])
async def test_value_that_is_cut_between_two_providers_is_restored(
    between: Open, rest: Any
) -> None:
    gateway, [first, second] = await between(Replicas((DOWN,)), echoes_in_part, rest)
    events = await gateway.ask(
        privacy="scrubbed", messages=[{"role": "user", "content": f"Write to {NAME}"}]
    )
    check_one_answer(events)
    assert text_of(events) == f"Dear {NAME}, dear {NAME}!"
    assert (len(first.received), len(second.received)) == (1, 1)
    assert NAME.encode() not in first.bodies[0] + second.bodies[0]


async def test_model_here_goes_on_for_a_provider(between: Open) -> None:
    engine = Replicas((DOWN,), (ROLE, says("wn to you."), STOP, USAGE))
    gateway, [near] = await between(engine, breaks_off("Down", " do"))
    events = await gateway.ask(privacy="open")
    check_one_answer(events)
    assert text_of(events) == "Down down to you."
    assert {one["model"] for one in events} == {"large"}
    assert len(near.received) == 1
    assert [route for route, _ in await gateway.rows()] == ["local", "overflow:p0", "local"]


async def test_answer_that_came_from_both_does_not_leave_again(between: Open) -> None:
    engine = Replicas((DOWN,), (ROLE, says("wn"), CUT), (DOWN,))
    gateway, [_, second] = await between(engine, breaks_off("Do"), answers("x"))
    with pytest.raises(EngineFailed):
        await gateway.ask(privacy="scrubbed")
    assert second.received == []


async def test_provider_that_cannot_go_on_is_not_asked(between: Open) -> None:
    gateway, [near] = await between(
        Replicas(BROKEN, (DOWN,)), answers("ld"), model={"continuation": False}
    )
    with pytest.raises(EngineFailed):
        await gateway.ask(privacy="open")
    assert near.connections == 0


@pytest.mark.parametrize(
    ("privacy", "overflow"),
    [
        ("local_only", {}),
        ("open", {"triggers": []}),
        ("open", {"per_key": {"k1": {"enabled": False}}}),
    ],
    ids=["class", "triggers", "key"],
)
async def test_answer_does_not_go_on_where_it_may_not_leave(
    between: Open, privacy: PrivacyClass, overflow: dict[str, Any]
) -> None:
    gateway, [near] = await between(Replicas(BROKEN, (DOWN,)), answers("ld"), **overflow)
    with pytest.raises(EngineFailed):
        await gateway.ask(privacy=privacy)
    assert near.connections == 0


class UpLater(KnownWords):
    """Down while the model here was asked only once: till then nothing leaves."""

    def __init__(self, engine: Replicas) -> None:
        super().__init__({})
        self._engine = engine

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        if len(self._engine.requests) < 2:
            raise DetectorUnavailable("down")
        return await super().detect(texts)


@pytest.mark.parametrize(
    ("model", "triggers"),
    [({"continuation": False}, ["engine_error"]), ({}, ["engine_unavailable"])],
    ids=["it cannot go on", "that is no reason"],
)
async def test_model_here_has_its_full_time_to_go_on_where_no_provider_can(
    between: Open, model: dict[str, Any], triggers: list[str]
) -> None:
    engine = Replicas(BROKEN, (0.3, *REST))
    gateway, [near] = await between(
        engine, answers("ld"), model=model, detector=UpLater(engine), triggers=triggers,
        first_delta_timeout_s=0.01,
    )  # fmt: skip
    assert text_of(await gateway.ask(privacy="scrubbed")) == "Hello world"
    assert (len(engine.requests), near.connections) == (2, 0)


async def test_model_here_that_takes_long_to_go_on_is_given_up_where_a_provider_can(
    between: Open,
) -> None:
    engine = Replicas(BROKEN, (asyncio.Event(),))
    gateway, [near] = await between(
        engine, answers("ld"), detector=UpLater(engine), first_delta_timeout_s=0.01
    )
    async with asyncio.timeout(20):
        assert text_of(await gateway.ask(privacy="scrubbed")) == "Hello world"
    assert len(near.received) == 1


async def test_personal_data_that_the_model_here_said_stops_at_the_door(between: Open) -> None:
    engine = Replicas((ROLE, says(f"Write to {MAIL}. "), CUT), (DOWN,))
    gateway, [near] = await between(engine, answers("x"))
    await gateway.ask(privacy="scrubbed")
    assert MAIL.encode() not in near.bodies[0]


async def test_provider_that_refuses_leaves_it_to_the_next(between: Open) -> None:
    gateway, [first, second] = await between(Replicas(BROKEN, (DOWN,)), refuses(500), answers("ld"))
    assert text_of(await gateway.ask(privacy="open")) == "Hello world"
    assert (len(first.received), len(second.received)) == (1, 1)


# How it is asked for.


def header(**headers: str) -> Request:
    raw = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_failure_is_told_unless_asked_otherwise() -> None:
    assert on_failure(header(), None) == "fail"
    assert on_failure(header(x_ringfence_on_failure="continue"), None) == "continue"
    assert on_failure(header(x_ringfence_on_failure="continue"), "fail") == "fail"


@pytest.mark.parametrize("value", ["", "Continue", "retry"])
def test_header_that_cannot_be_meant_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        on_failure(header(x_ringfence_on_failure=value), "continue")
    assert refused.value.param == ON_FAILURE


def test_field_never_reaches_an_engine() -> None:
    wire = ChatRequest.model_validate({"model": "chat", **HI, "on_failure": "continue"})
    assert "on_failure" not in wire.to_engine()


async def test_client_of_the_api_gets_one_whole_answer(make: Make) -> None:
    backend = make(Replicas(BROKEN, REST))
    answer = await backend.chat(stream=False, on_failure="continue")
    assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
    backend = make(Replicas(BROKEN, REST))
    broken = await backend.chat(stream=True)
    assert b'"error"' in broken.content
    assert b"[DONE]" not in broken.content
    refused = await backend.chat(on_failure="retry")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "on_failure")
