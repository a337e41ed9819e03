"""Overflow end to end in one process: a local model that fails, and a provider on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson
import pytest

from models.engine import EngineError, EngineUnavailable
from serving.answering.explanations import Explanations
from serving.domain.calls import GenerationCall
from serving.domain.principal import Principal
from serving.domain.privacy_class import PrivacyClass
from serving.domain.route import Origin
from serving.egress.ledger.reading import crossings_of
from serving.egress.ledger.receipts import verify
from serving.egress.ledger.signing import Signer
from serving.privacy.spans import Detector, Span
from serving.storage.database import Database
from tests.serving.conftest import SPECS
from tests.serving.egress.standin import Behaviour, Received, StandIn
from tests.serving.egress.wire_format import HELLO, Answer, refuses, sse, streams
from tests.serving.fakes import WHOLE, FakeEmbedder, ScriptedEngine
from tests.serving.live import eventually
from tests.serving.privacy.known_words import Down, KnownWords
from tests.serving.wired import Wire

NAME = "Jane Roe"
MAIL = "jane.roe@example.com"
WORDS = KnownWords({NAME: "PERSON", MAIL: "EMAIL"})
DOWN = EngineUnavailable("The model is not available now.")
SAYS_HELLO = streams(sse(*HELLO.openai()))
CALLER = Principal("acme", "k1", "ci", "inference", None, "open")


def echo(received: Received) -> Behaviour:
    """Repeats the user's text in pieces of three characters."""
    said = received.json()["messages"][-1]["content"]
    pieces = tuple(said[at : at + 3] for at in range(0, len(said), 3))
    return streams(sse(*Answer(pieces=pieces).openai()))


class Waiting(KnownWords):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        self.asked.set()
        await self.may_answer.wait()
        return await super().detect(texts)


class Scene:
    """A gateway whose model fails, and a provider."""

    def __init__(self, wire: Wire, provider: StandIn, database: Database) -> None:
        self._wire = wire
        self._database = database
        self.provider = provider
        self.request_id = uuid4().hex
        self._prefix = f"{{test-{uuid4().hex}}}:"

    def open(
        self,
        *script: Any,
        detector: Detector = WORDS,
        model: Any = None,
        provider: Any = None,
        **settings: Any,
    ) -> None:
        self.engine = ScriptedEngine(*(script or (DOWN,)))
        engines = {"chat": self.engine, "other": ScriptedEngine()}
        near = {
            "name": "near", "kind": "openai", "base_url": f"{self.provider.url}/v1",
            "api_key": "sk-theirs",
            "models": [
                {"model": "large", "stands_in_for": ["chat"], "context_tokens": 4096}
                | (model or {})
            ],
        }  # fmt: skip
        overflow = {"providers": [near | (provider or {})], "max_share": 1.0} | settings.pop(
            "overflow", {}
        )
        self.pipeline, self.admission_parts, self.meter = self._wire(
            SPECS,
            engines,
            {"embed": FakeEmbedder()},
            detector=detector,
            overflow=overflow,
            prefix=self._prefix,
            **settings,
        )

    async def ask(
        self, text: str = "Hi", *, privacy: PrivacyClass = "scrubbed", **fields: Any
    ) -> tuple[Origin, str]:
        """Return the route of the answer, and its text."""
        call = GenerationCall(
            request_id=self.request_id,
            principal=replace(CALLER, privacy=privacy),
            model="chat",
            privacy=privacy,
            kind="chat",
            body={"messages": [{"role": "user", "content": text}]} | fields,
            stream=True,
        )
        async with self.pipeline.generate(call) as answer:
            origin = answer.given()
            deltas = b"".join([delta async for delta in answer.deltas])
        chunks = [orjson.loads(line[6:]) for line in deltas.split(b"\n\n") if line]
        assert len({chunk["id"] for chunk in chunks}) == 1
        said = [one["delta"].get("content") or "" for c in chunks for one in c["choices"]]
        return origin, "".join(said)

    async def reasons(self) -> list[str | None]:
        """Why each target that was considered did not answer."""
        kept = Explanations(
            self.admission_parts.valkey, self.admission_parts.ledger, prefix=self._prefix
        )
        explained = await kept.of("acme", self.request_id)
        assert explained is not None
        assert explained.decision is not None
        return [one.reason for one in explained.decision.considered]

    async def received_bytes(self) -> list[int]:
        """Length of each answer that came back."""
        crossings = await crossings_of(self._database, self.request_id, "acme")
        return [one.as_json()["arrival"]["received_bytes"] for one in crossings]

    async def ledger(self) -> list[tuple[str, int, str]]:
        """Return destination, body length and outcome of everything that left."""
        crossings = await crossings_of(self._database, self.request_id, "acme")
        told = [one.as_json() for one in crossings]
        return [(o["host"], o["body_bytes"], o["arrival"]["outcome"]) for o in told]


Start = Callable[..., Any]


@pytest.fixture
async def scene(wire: Wire, database: Database) -> AsyncIterator[Start]:
    standing: list[StandIn] = []

    async def start(*script: Any) -> Scene:
        provider = StandIn(*(script or (SAYS_HELLO,)))
        await provider.start()
        standing.append(provider)
        return Scene(wire, provider, database)

    yield start
    for provider in standing:
        await provider.stop()


async def test_scrubbed_request_is_answered_elsewhere_and_restored(scene: Start) -> None:
    near = await scene(echo)
    near.open()
    text = f"Write to {NAME}, {MAIL}."
    origin, said = await near.ask(text)
    assert (origin.route, origin.privacy, said) == ("overflow:near", "scrubbed", text)
    [body] = near.provider.bodies
    assert NAME.encode() not in body
    assert MAIL.encode() not in body


async def test_open_request_leaves_as_it_is(scene: Start) -> None:
    near = await scene(echo)
    near.open(detector=Down())
    origin, said = await near.ask(f"Write to {NAME}.", privacy="open")
    assert (origin.route, said) == ("overflow:near", f"Write to {NAME}.")
    assert NAME.encode() in near.provider.bodies[0]


async def test_local_only_request_fails_here_and_nobody_is_asked(scene: Start) -> None:
    near = await scene()
    near.open()
    with pytest.raises(EngineUnavailable):
        await near.ask(privacy="local_only")
    assert (near.provider.connections, await near.ledger()) == (0, [])


async def test_every_byte_that_left_is_in_the_ledger(scene: Start) -> None:
    near = await scene()
    near.open()
    await near.ask()
    [body] = near.provider.bodies
    assert await near.ledger() == [(f"127.0.0.1:{near.provider.port}", len(body), "ok")]


@pytest.mark.parametrize("cuts", [(), (1, 7, 40, 41)], ids=["in one piece", "in pieces"])
async def test_ledger_has_the_length_of_the_answer_as_it_came(
    scene: Start, cuts: tuple[int, ...]
) -> None:
    sent = b": a comment is no event\n\n" + sse(*HELLO.openai())
    near = await scene(streams(sent, cuts=cuts))
    near.open()
    await near.ask()
    assert await near.received_bytes() == [len(sent)]


async def test_ledger_has_the_length_of_a_refusal(scene: Start) -> None:
    refusal = {"error": {"message": "no", "code": "overloaded"}}
    near = await scene(refuses(503, refusal))
    near.open()
    with pytest.raises(EngineUnavailable):
        await near.ask()
    assert await near.received_bytes() == [len(orjson.dumps(refusal))]


async def test_receipt_says_what_left_and_to_whom(scene: Start, tmp_path: Any) -> None:
    near = await scene()
    near.open(home=tmp_path)
    origin, _ = await near.ask()
    signer = Signer.load(tmp_path / "signing-key.pem")
    told = verify(origin.receipt, signer.public_keys)
    assert (told.route, told.stayed_inside) == ("overflow:near", False)
    [left] = told.departures
    assert (left.provider, left.body_bytes) == ("near", len(near.provider.bodies[0]))


async def test_answer_from_here_has_a_receipt_that_nothing_left(
    scene: Start, tmp_path: Any
) -> None:
    near = await scene()
    near.open(*WHOLE, home=tmp_path)
    origin, _ = await near.ask()
    told = verify(origin.receipt, Signer.load(tmp_path / "signing-key.pem").public_keys)
    assert (told.route, told.stayed_inside, near.provider.connections) == ("local", True, 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"detector": Down()}, "Hi"),
        ({"privacy": {"actions": {"PERSON": "block"}}}, f"I am {NAME}."),
    ],
    ids=["nobody can say what is in it", "the policy forbids it"],
)
async def test_request_that_may_not_leave_fails_as_it_does_here(
    scene: Start, settings: dict[str, Any], text: str
) -> None:
    near = await scene()
    near.open(**settings)
    with pytest.raises(EngineUnavailable):
        await near.ask(text)
    assert (near.provider.connections, await near.ledger()) == (0, [])


async def test_personal_data_that_the_detector_missed_stops_at_the_door(scene: Start) -> None:
    near = await scene()
    near.open(detector=KnownWords({}))
    with pytest.raises(EngineUnavailable):
        await near.ask(f"Write to {MAIL}.")
    assert (near.provider.bodies, await near.ledger()) == ([], [])


async def test_provider_s_limit_of_tokens_has_room_for_answers_without_a_bound(
    scene: Start,
) -> None:
    near = await scene()
    near.open(model={"max_output_tokens": 50}, provider={"tokens_per_minute": 200})
    assert (await near.ask())[0].route == "overflow:near"
    with pytest.raises(EngineUnavailable):  # What was used of the 200 is little, but
        await near.ask("word " * 150)  # this prompt is long.


async def test_seed_leaves_as_another_one_and_the_same_each_time(scene: Start) -> None:
    near = await scene()
    near.open(model={"seed": True})
    card = 4539578763621486
    for _ in range(2):
        await near.ask(seed=card)
    first, second = (orjson.loads(body)["seed"] for body in near.provider.bodies)
    assert (first == second, first != card, 0 <= first < 100_000) == (True, True, True)


async def test_request_that_the_provider_cannot_run_is_not_sent_there(scene: Start) -> None:
    near = await scene()
    near.open(model={"tools": False})
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(EngineUnavailable):
        await near.ask(tools=[tool])
    assert near.provider.connections == 0


@pytest.mark.parametrize("opted_in", [False, True])
async def test_what_is_too_long_for_the_model_here_leaves_only_where_that_is_a_reason(
    scene: Start, *, opted_in: bool
) -> None:
    near = await scene()
    triggers = ["engine_unavailable", *(["context_length"] if opted_in else [])]
    near.open(overflow={"triggers": triggers})
    text = "a b c d " * 160
    if opted_in:
        assert (await near.ask(text))[0].route == "overflow:near"
    else:
        with pytest.raises(EngineUnavailable):
            await near.ask(text)
    assert near.provider.connections == int(opted_in)


async def test_refusal_of_the_provider_is_in_the_ledger_and_not_seen(scene: Start) -> None:
    near = await scene(refuses(500))
    near.open()
    with pytest.raises(EngineUnavailable, match="not available now"):
        await near.ask()
    [(_, _, outcome)] = await near.ledger()
    assert outcome != "ok"


async def test_answer_that_breaks_off_is_an_error_and_is_closed_in_the_ledger(
    scene: Start,
) -> None:
    cut = sse(*HELLO.openai()[:2], done=False)
    near = await scene(streams(cut, then=["reset"]))
    near.open()
    with pytest.raises(EngineError):
        await near.ask()
    [(_, _, outcome)] = await near.ledger()
    assert outcome == "disconnected"


async def test_client_that_goes_away_closes_the_connection_and_the_entry(scene: Start) -> None:
    begun = sse(*HELLO.openai()[:2], done=False)
    near = await scene(streams(begun, then=["hang"]))
    near.open()
    asking = asyncio.create_task(near.ask())
    assert await eventually(lambda: bool(near.provider.received))
    await asyncio.sleep(0.1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    [(_, _, outcome)] = await near.ledger()
    assert outcome == "cancelled"
    assert await eventually(lambda: near.provider.open == 0)


async def test_usage_and_cost_of_the_provider_are_booked_by_its_price(scene: Start) -> None:
    near = await scene()
    near.open(model={"price": {"input_per_million": 500_000, "output_per_million": 1_000_000}})
    await near.ask()
    rows = await near.admission_parts.ledger.attempts_of("acme", near.request_id)
    assert [(row.route, row.outcome) for row in rows] == [
        ("local", "model_unavailable"), ("overflow:near", "ok"),
    ]  # fmt: skip
    used = HELLO.prompt_tokens * 10**9 // 2 + HELLO.completion_tokens * 10**9
    assert [row.cost_nanos for row in rows] == [0, used]


SLOW = (0.3, *WHOLE)
"""A model here that takes longer for its first delta than it may where a provider can answer."""
HASTY = {"first_delta_timeout_s": 0.01}
TOOL = {"type": "function", "function": {"name": "f"}}


async def test_model_that_takes_long_is_given_up_where_a_provider_can_answer(scene: Start) -> None:
    near = await scene()
    near.open(asyncio.Event(), overflow=HASTY)
    async with asyncio.timeout(20):
        assert (await near.ask())[0].route == "overflow:near"


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"overflow": {"per_key": {"k1": {"enabled": False}}}}, {}),
        ({"overflow": {"triggers": ["engine_unavailable"]}}, {}),
        ({"model": {"tools": False}}, {"tools": [TOOL]}),
        ({}, {"text": "a b c d " * 160}),
        ({"detector": Down()}, {}),
        ({"privacy": {"actions": {"PERSON": "block"}}}, {"text": f"I am {NAME}."}),
        ({"provider": {"tokens_per_minute": 2}}, {}),
    ],
    ids=[
        "overflow is off for the key", "a slow model is no reason", "no tools there",
        "too long for the model here", "detector down", "blocked", "limit of the provider",
    ],
)  # fmt: skip
async def test_model_that_takes_long_is_waited_for_where_no_provider_can_answer(
    scene: Start, settings: dict[str, Any], asked: dict[str, Any]
) -> None:
    near = await scene()
    near.open(*SLOW, **settings | {"overflow": HASTY | settings.get("overflow", {})})
    assert (await near.ask(**asked))[0].route == "local"
    assert near.provider.connections == 0


async def test_model_that_takes_long_is_waited_for_while_the_provider_rests(scene: Start) -> None:
    near = await scene(refuses(429, None, retry_after="60"))
    near.open(*SLOW, overflow=HASTY)
    with pytest.raises(EngineError):
        await near.ask()
    assert (await near.ask())[0].route == "local"
    assert len(near.provider.bodies) == 1


async def test_model_that_takes_long_is_waited_for_when_the_share_is_used_up(
    scene: Start,
) -> None:
    near = await scene()
    near.open(*SLOW, overflow=HASTY | {"max_share": 0.01})
    routes = [(await near.ask())[0].route for _ in range(3)]
    assert routes == ["overflow:near", "overflow:near", "local"]


async def test_surge_leaves_before_it_waits_and_comes_home_after_it(scene: Start) -> None:
    near = await scene()
    near.open(*WHOLE, overflow={"max_wait_s": 0.0, "resume_wait_s": 0.0, "dwell_s": 0.0})
    assert (await near.ask())[0].route == "local"
    queue = near.admission_parts.admission.queues["chat"]
    queue.predicted_wait_s = lambda: 5.0
    assert (await near.ask())[0].route == "overflow:near"
    del queue.predicted_wait_s
    assert (await near.ask())[0].route == "local"


async def test_share_of_what_may_leave_is_kept(scene: Start) -> None:
    near = await scene()
    near.open(overflow={"max_share": 0.01})
    for _ in range(2):  # The floor.
        await near.ask()
    with pytest.raises(EngineUnavailable):
        await near.ask()
    assert len(near.provider.bodies) == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"detector": Down()}, "Hi"),
        ({"privacy": {"actions": {"PERSON": "block"}}}, f"I am {NAME}."),
        ({}, "Dobry den, jak se dnes mate? Pocasi je krasne."),
        ({"detector": KnownWords({})}, f"Write to {MAIL}."),
        ({"provider": {"tokens_per_minute": 2}}, "Hi"),
    ],
    ids=["detector down", "blocked", "unread language", "gate refuses", "limit of the provider"],
)  # fmt: skip
async def test_request_of_which_nothing_left_uses_no_share(
    scene: Start, settings: dict[str, Any], text: str
) -> None:
    near = await scene()
    near.open(overflow={"max_share": 0.01}, **settings)
    for _ in range(4):
        with pytest.raises(EngineUnavailable):
            await near.ask(text)
    assert near.provider.bodies == []
    assert "share_of_model" not in await near.reasons()


async def test_request_that_reached_nobody_uses_no_share(scene: Start) -> None:
    near = await scene()
    near.open(overflow={"max_share": 0.01})
    await near.provider.stop()
    for _ in range(4):
        with pytest.raises(EngineUnavailable):
            await near.ask()
    assert "share_of_model" not in await near.reasons()


async def test_request_whose_client_goes_away_before_it_leaves_uses_no_share(
    scene: Start,
) -> None:
    near = await scene()
    detector = Waiting()
    near.open(overflow={"max_share": 0.01}, detector=detector)
    for _ in range(4):
        asking = asyncio.create_task(near.ask())
        async with asyncio.timeout(20):
            await detector.asked.wait()
        detector.asked.clear()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    detector.may_answer.set()
    assert (await near.ask())[0].route == "overflow:near"
