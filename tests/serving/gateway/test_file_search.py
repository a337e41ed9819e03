"""Chats grounded in documents, from the wire to the engine and back, on fakes of the library."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr

from models.engine import Engine, EngineUnavailable
from models.simulated.engine import SimulatedEngine
from models.tokens.token_counter import TokenCounter, counter
from rag.stores.access_lists import Reader
from serving.access.authenticator import Authenticator
from serving.access.keys import KeyStore
from serving.answering.routing import Routing
from serving.answering.targets import Overflow
from serving.attempts import Forecast
from serving.config import LimitSettings, ServerSettings
from serving.domain.calls import GenerationCall
from serving.domain.search_call import RetrievedPassages, SearchCall
from serving.gateway.app import build_app
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.idempotency.store import IdempotencyStore
from serving.pipeline import Pipeline
from serving.retrieval.grounding import Grounding
from serving.retrieval.knowledge import Knowledge
from serving.retrieval.query_vectors import QueryVectors
from serving.retrieval.searching import Searching
from serving.storage.database import Database
from serving.wiring.admission import AdmissionParts
from tests.rag.passage import passage
from tests.serving.answering.resume.test_continuation import BROKEN, REST, Replicas
from tests.serving.answering.test_routing import AWAY, FakeFallback
from tests.serving.conftest import FIXED_KEY, SECRET, SPECS, Backend, FixedReadiness, Keys
from tests.serving.fakes import (
    HELLO,
    ROLE,
    STOP,
    WHOLE,
    FakeEmbedder,
    ScriptedEngine,
    chat_frame,
    usage_frame,
)
from tests.serving.gateway.documents import CALLERS
from tests.serving.live import Connection, eventually, listening
from tests.serving.retrieval.shelf import FakeIndex, FakeStores, generation
from tests.serving.wired import CharacterCounter, Wire

QUESTION = "What do wings do?"
IN_STORE = {"vector_store_ids": ["vs_1"]}
ASKED: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "user", "content": QUESTION}],
    "file_search": IN_STORE,
}
WINGS = passage(1), passage(2, "Tails steer.", page=None)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["unstreamed", "streamed"])
DOWN = EngineUnavailable("The model is not available now.")


@dataclass
class Place:
    """A gateway with vector stores, and the calls it made."""

    backend: Backend
    pipeline: Pipeline
    engine: Any
    stores: FakeStores
    index: FakeIndex
    embedder: FakeEmbedder

    async def chat(self, *, key: str = FIXED_KEY, **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return await self.backend.post("/v1/chat/completions", ASKED | fields, **headers)

    def reached(self) -> dict[str, Any]:
        """The last body that the engine received."""
        body: dict[str, Any] = self.engine.requests[-1].body
        return body


Open = Callable[..., Place]


@pytest.fixture
async def place(wire: Wire, database: Database) -> AsyncIterator[Open]:
    """Open a gateway: `place(engine, index=..., stores=..., overflow=..., admission={...})`."""
    clients: list[httpx.AsyncClient] = []

    def build(
        engine: Engine | None = None,
        *,
        index: FakeIndex | None = None,
        stores: FakeStores | None = None,
        embedder: FakeEmbedder | None = None,
        overflow: Overflow | None = None,
        **settings: Any,
    ) -> Place:
        engine, embedder = engine or ScriptedEngine(*WHOLE), embedder or FakeEmbedder()
        stores, index = stores or FakeStores(), index or FakeIndex.holding(*WINGS)
        engines: dict[str, Engine] = {"chat": engine, "other": SimulatedEngine(SPECS[1])}
        _, admission_parts, meter = wire(SPECS, engines, {"embed": embedder}, **settings)
        pipeline = _pipeline(
            admission_parts, engines, embedder, stores, index, database=database, overflow=overflow
        )
        requests = OpenRequests()
        idempotency = Idempotency(
            IdempotencyStore(admission_parts.valkey, SECRET), requests=requests
        )
        app = build_app(
            pipeline,
            idempotency,
            requests=requests,
            readiness=FixedReadiness({}),
            meter=meter,
            server=ServerSettings(),
            limits=LimitSettings(),
        )
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ringfence")
        clients.append(client)
        return Place(
            Backend(app, meter, client, admission_parts, requests, idempotency),
            pipeline,
            engine,
            stores,
            index,
            embedder,
        )

    yield build
    for client in clients:
        await client.aclose()


def _pipeline(
    admission_parts: AdmissionParts,
    engines: dict[str, Engine],
    embedder: FakeEmbedder,
    stores: FakeStores,
    index: FakeIndex,
    *,
    database: Database,
    overflow: Overflow | None,
) -> Pipeline:
    counters: dict[str, TokenCounter] = {spec.id: counter(spec, None, None) for spec in SPECS[:2]}
    counters["embed"] = CharacterCounter()
    searching = Searching(
        stores, index, QueryVectors(admission_parts.attempts, {"embed": embedder}, counters)
    )
    return Pipeline(
        authenticator=Authenticator(
            KeyStore(database, SECRET), SECRET, fixed_key=SecretStr(FIXED_KEY)
        ),
        attempts=admission_parts.attempts,
        routing=Routing(attempts=admission_parts.attempts, engines=engines, overflow=overflow),
        specs={spec.id: spec for spec in SPECS},
        engines=engines,
        embedders={"embed": embedder},
        counters=counters,
        secret=SECRET,
        knowledge=Knowledge(searching, Grounding(searching, counters)),
    )


def deltas(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the delta of each choice of each event."""
    events = [one for one in answer.text.split("\n\n") if one.startswith("data: {")]
    chunks = [orjson.loads(one[6:]) for one in events]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def sources(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the fields of messages besides their text, streamed or not."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        said = [choice["message"] for choice in answer.json()["choices"]]
    else:
        said = deltas(answer)
    names = ("annotations", "file_search_call")
    return [{name: one[name] for name in names} for one in said if names[0] in one]


def told(answer: httpx.Response) -> tuple[int, str | None]:
    """Return status and `param` of a refusal."""
    return answer.status_code, answer.json()["error"]["param"]


async def test_streamed_answer_has_the_sources_of_the_unstreamed(place: Open) -> None:
    there = place()
    streamed, whole = await there.chat(stream=True), await there.chat()
    assert sources(streamed) == sources(whole)
    (source,) = sources(whole)
    told_of = [(one["index"], one["file_id"], one["page"]) for one in source["annotations"]]
    assert told_of == [(0, "file-1", 3), (1, "file-2", None)]


async def test_every_choice_has_its_sources(place: Open) -> None:
    roles = [chat_frame({"role": "assistant", "content": ""}, index=i) for i in (0, 1)]
    ends = [chat_frame({}, index=i, finish="stop") for i in (0, 1)]
    there = place(ScriptedEngine(*roles, *ends, *WHOLE[3:]))
    streamed, whole = await there.chat(stream=True, n=2), await there.chat(n=2)
    assert sources(streamed) == sources(whole)
    assert len(sources(whole)) == 2


async def test_sources_come_before_the_text_and_change_no_event(place: Open) -> None:
    streamed = (await place().chat(stream=True)).content
    before, _, rest = streamed.partition(HELLO)
    assert before.startswith(ROLE)
    assert b"annotations" in before
    assert rest == STOP + usage_frame() + b"data: [DONE]\n\n"


async def test_openai_s_client_reads_the_citations(place: Open) -> None:
    there = place()
    async with AsyncOpenAI(
        api_key=FIXED_KEY,
        base_url="http://ringfence/v1",
        http_client=there.backend.client,  # type: ignore[arg-type]
    ) as client:
        answer = await client.chat.completions.create(
            model="chat", messages=ASKED["messages"], extra_body={"file_search": IN_STORE}
        )
    message = answer.choices[0].message
    assert message.content == "Hello"
    assert message.annotations is not None
    assert message.annotations[0].model_dump()["file_id"] == "file-1"


@BOTH
@pytest.mark.parametrize("include", [None, []])
async def test_passages_are_not_told_unasked(place: Open, *, stream: bool, include: Any) -> None:
    (source,) = sources(await place().chat(stream=stream, include=include))
    assert source["file_search_call"] == {"queries": [QUESTION], "results": None}


@BOTH
async def test_passages_are_told_when_asked_for(place: Open, *, stream: bool) -> None:
    include = ["file_search_call.results"]
    (source,) = sources(await place().chat(stream=stream, include=include))
    results = source["file_search_call"]["results"]
    assert [one["text"] for one in results] == ["Wings lift.", "Tails steer."]


async def test_engine_gets_the_passages_between_random_tags_and_no_field_of_ours(
    place: Open,
) -> None:
    there = place()
    tags = set()
    for _ in range(2):
        await there.chat(include=["file_search_call.results"])
        body = there.reached()
        assert not {"file_search", "include"} & body.keys()
        prompt = body["messages"][-1]["content"]
        found = re.search(r"<passage-([0-9a-f]{16}) [^>]*>\nWings lift\.\n</passage-\1>", prompt)
        assert found is not None
        assert prompt.endswith(QUESTION)
        tags.add(found[1])
    assert len(tags) == 2


async def test_other_fields_reach_the_engine_beside_passages(place: Open) -> None:
    there = place()
    function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    fields: dict[str, Any] = {
        "logprobs": True, "top_logprobs": 2, "tools": [function], "tool_choice": "auto",
        "response_format": {"type": "json_object"}, "max_tokens": 5, "seed": 7,
    }  # fmt: skip
    assert len(sources(await there.chat(**fields))) == 1
    assert fields.items() <= there.reached().items()


async def test_everything_that_is_searched_for_comes_from_the_body(place: Open, keys: Keys) -> None:
    there = place(stores=FakeStores(generation("vs_1"), generation("vs_2")))
    search = {
        "vector_store_ids": ["vs_1", "vs_2", "vs_1"],
        "max_num_results": 3,
        "filters": {"type": "eq", "key": "year", "value": 2026},
        "ranking_options": {"ranker": "none", "score_threshold": 0.2},
    }
    await there.chat(key=keys.acme, file_search=search)
    (request,) = there.index.requests
    assert request.reader == Reader.of("acme")
    assert [one.store_id for one in request.generations] == ["vs_1", "vs_2"]
    assert (request.texts, request.limit) == ([QUESTION], 3)
    assert (request.threshold, request.rerank) == (0.2, False)
    assert request.filters is not None


async def test_search_by_itself_finds_what_a_chat_is_grounded_in(place: Open) -> None:
    there = place()
    call = SearchCall(
        request_id="r1", principal=CALLERS["legal"], store_ids=["vs_1"], queries=[QUESTION]
    )
    assert await there.pipeline.search(call) == RetrievedPassages(WINGS, [QUESTION])
    assert there.index.requests[0].reader == Reader.of("acme", ["legal"])


async def test_nothing_that_is_found_leaves_the_conversation_as_it_is(place: Open) -> None:
    there = place(index=FakeIndex.holding())
    (source,) = sources(await there.chat())
    assert source["annotations"] == []
    assert there.reached()["messages"] == ASKED["messages"]


async def test_search_and_answer_are_attempts_of_one_request(place: Open) -> None:
    there = place()
    answer = await there.chat()
    request_id = answer.headers["x-request-id"]
    rows = await there.backend.admission_parts.ledger.attempts_of("default", request_id)
    assert [(row.endpoint, row.model, row.outcome) for row in rows] == [
        ("search", "embed", "ok"),
        ("chat", "chat", "ok"),
    ]


@BOTH
async def test_store_that_is_not_there_is_told_as_everywhere(place: Open, *, stream: bool) -> None:
    there = place()
    answer = await there.chat(stream=stream, file_search={"vector_store_ids": ["vs_9"]})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("not_found", "No such vector store.")
    assert there.engine.requests == []


async def test_stores_of_two_embedders_are_refused(place: Open) -> None:
    stores = FakeStores(generation("vs_1"), generation("vs_2", model="older"))
    answer = await place(stores=stores).chat(file_search={"vector_store_ids": ["vs_1", "vs_2"]})
    assert told(answer) == (400, "file_search.vector_store_ids")
    assert "'older'" in answer.json()["error"]["message"]


async def test_filter_that_is_none_is_named(place: Open) -> None:
    there = place()
    answer = await there.chat(file_search=IN_STORE | {"filters": {"type": "like"}})
    assert told(answer) == (400, "file_search.filters")
    assert there.stores.readers == []


@pytest.mark.parametrize("model", ["gpt-5", "embed"])
async def test_nothing_is_looked_up_for_a_model_that_does_not_answer(
    place: Open, model: str
) -> None:
    there = place()
    assert told(await there.chat(model=model)) in {(404, "model"), (400, "model")}
    assert (there.stores.readers, there.embedder.inputs) == ([], [])


async def test_nothing_is_looked_up_for_a_key_that_may_not_use_the_model(
    place: Open, keys: Keys
) -> None:
    there = place()
    assert told(await there.chat(key=keys.limited)) == (404, "model")
    assert (there.stores.readers, there.embedder.inputs) == ([], [])


@BOTH
async def test_gateway_without_an_embedder_refuses_a_search(
    backend: Backend, *, stream: bool
) -> None:
    answer = await backend.post("/v1/chat/completions", ASKED | {"stream": stream})
    assert told(answer) == (400, "file_search")
    assert "No embedding model is served" in answer.json()["error"]["message"]


@BOTH
async def test_search_over_a_limit_is_refused_before_the_engine_is_asked(
    place: Open, *, stream: bool
) -> None:
    there = place(admission={"per_key": {"requests_per_minute": 2}})
    assert (await there.chat(stream=stream)).status_code == 200
    assert (await there.chat(stream=stream)).status_code == 429
    assert len(there.engine.requests) == 1


async def test_completion_knows_no_search(place: Open) -> None:
    there = place()
    body = {"model": "other", "prompt": "Hi", "file_search": {"vector_store_ids": 1}}
    headers = {"authorization": f"Bearer {FIXED_KEY}"}
    answer = await there.backend.post("/v1/completions", body, **headers)
    assert answer.status_code == 200
    assert there.stores.readers == []


@dataclass
class FencedOverflow(Overflow):
    """A detour for requests that may leave, like the real one; records calls."""

    engine: ScriptedEngine
    calls: list[GenerationCall] = field(default_factory=list)

    def fallback(self, call: GenerationCall, forecast: Forecast) -> FakeFallback | None:
        del forecast
        self.calls.append(call)
        return None if call.privacy == "local_only" else FakeFallback([self.engine])


@pytest.fixture
async def loose_key(database: Database) -> str:
    """Create a key whose requests may leave without personal data."""
    name = f"loose-{id(database)}"
    issued = await KeyStore(database, SECRET).create("acme", name, privacy="scrubbed")
    return issued.key.get_secret_value()


@BOTH
async def test_request_with_a_passage_that_may_not_leave_does_not(
    place: Open, loose_key: str, *, stream: bool
) -> None:
    overflow = FencedOverflow(ScriptedEngine(*AWAY))
    there = place(ScriptedEngine(DOWN), overflow=overflow)
    answer = await there.chat(key=loose_key, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert [call.privacy for call in overflow.calls] == ["local_only"]
    assert overflow.engine.requests == []


async def test_request_whose_passages_may_leave_does(place: Open, loose_key: str) -> None:
    overflow = FencedOverflow(ScriptedEngine(*AWAY))
    may_leave = replace(passage(1), privacy="scrubbed")
    there = place(ScriptedEngine(DOWN), index=FakeIndex.holding(may_leave), overflow=overflow)
    answer = await there.chat(key=loose_key)
    assert answer.headers["x-ringfence-route"] == "overflow:p0"
    assert answer.headers["x-ringfence-privacy"] == "scrubbed"
    assert len(sources(answer)) == 1
    assert "Wings lift." in overflow.engine.requests[0].body["messages"][-1]["content"]


async def test_answer_tells_the_class_that_its_passages_gave_it(
    place: Open, loose_key: str
) -> None:
    assert (await place().chat(key=loose_key)).headers["x-ringfence-privacy"] == "local_only"


@BOTH
async def test_answer_that_goes_on_has_its_sources_once(place: Open, *, stream: bool) -> None:
    there = place(Replicas(BROKEN, REST))
    answer = await there.chat(stream=stream, on_failure="continue")
    assert len(sources(answer)) == 1
    first, again = there.engine.requests
    assert again.body["messages"][:-1] == first.body["messages"]
    if stream:
        assert "".join(one.get("content") or "" for one in deltas(answer)) == "Hello world"


async def test_hang_up_closes_a_grounded_stream(place: Open) -> None:
    engine = ScriptedEngine(ROLE, HELLO, asyncio.Event())
    there = place(engine)
    async with listening(there.backend.app) as port, Connection.open(port) as client:
        await client.post("/v1/chat/completions", ASKED | {"stream": True}, key=FIXED_KEY)
        await client.until(HELLO)
        client.hang_up(abruptly=True)
        assert await eventually(lambda: engine.open == 0)


async def test_hang_up_in_the_search_ends_it_and_asks_no_engine(place: Open) -> None:
    embedder = FakeEmbedder(asyncio.Event())
    there = place(embedder=embedder)
    async with listening(there.backend.app) as port, Connection.open(port) as client:
        await client.post("/v1/chat/completions", ASKED, key=FIXED_KEY)
        await embedder.started.wait()
        client.hang_up(abruptly=True)
        assert await eventually(lambda: embedder.open == 0)
    assert there.engine.requests == []


async def test_client_s_time_is_one_for_search_and_answer(place: Open) -> None:
    # The answer takes less than the client's time, but more than the search leaves of it.
    there = place(ScriptedEngine(0.7, *WHOLE), index=FakeIndex.of(0.5))
    headers = {"authorization": f"Bearer {FIXED_KEY}", "x-request-timeout-s": "1"}
    answer = await there.backend.post("/v1/chat/completions", ASKED, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
