"""One path for every request: the scope owns the engine's slot and the meter's record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from models.catalog import ModelSpec
from models.engine import EngineFailed, EngineOverloaded, EngineUnavailable, TokenizeRequest
from serving.domain.calls import Call, EmbeddingCall, GenerationCall
from serving.domain.errors import (
    InvalidKey,
    InvalidRequest,
    MissingKey,
    NotPermitted,
    UnknownModel,
    Unsupported,
)
from serving.domain.principal import Principal
from serving.domain.search_call import FileSearch, SearchCall
from serving.pipeline import COLLECTED_STREAM_INTERVAL
from tests.serving.conftest import FIXED_KEY, SPECS, Keys
from tests.serving.fakes import (
    DIMENSION,
    HELLO,
    ROLE,
    STOP,
    WHOLE,
    FakeEmbedder,
    ScriptedEngine,
    usage_frame,
)
from tests.serving.wired import Wire

ANYONE = Principal("acme", "k1", "ci", "inference", None)
LIMITED = Principal("acme", "k2", "ci", "inference", frozenset({"embed"}))


class Bench:
    """A pipeline on one scripted engine, and its meter's output."""

    def __init__(
        self,
        wire: Wire,
        engine: ScriptedEngine,
        embedder: FakeEmbedder,
        specs: tuple[ModelSpec, ...],
    ) -> None:
        self.engine = engine
        engines = {"chat": engine, "other": ScriptedEngine()}
        self.pipeline, self.admission_parts, self.meter = wire(specs, engines, {"embed": embedder})

    def generate(
        self,
        *,
        stream: bool = True,
        principal: Principal = ANYONE,
        file_search: FileSearch | None = None,
        **body: Any,
    ) -> Any:
        call = GenerationCall(
            request_id="r1",
            principal=principal,
            model="chat",
            kind="chat",
            body={"messages": []} | body,
            stream=stream,
        )
        return self.pipeline.generate(call, file_search)

    async def embed(self, *inputs: str, dimensions: int | None = None) -> Any:
        call = EmbeddingCall(
            request_id="r1",
            principal=ANYONE,
            model="embed",
            inputs=list(inputs),
            dimensions=dimensions,
        )
        return await self.pipeline.embed(call)

    def sample(self, name: str, **labels: str) -> float:
        text = "{" + ",".join(f'{key}="{labels[key]}"' for key in sorted(labels)) + "}"
        lines = self.meter.render().decode().splitlines()
        found = [line for line in lines if line.startswith(f"{name}{text} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def outcomes(self) -> dict[str, float]:
        told = {}
        for line in self.meter.render().decode().splitlines():
            if line.startswith("ringfence_requests_total{"):
                labels, _, value = line.rpartition(" ")
                told[labels.rpartition('outcome="')[2].rstrip('"}')] = float(value)
        return told


Start = Callable[..., Bench]


@pytest.fixture
def bench(wire: Wire) -> Start:
    def start(
        *script: Any,
        embedder: FakeEmbedder | None = None,
        specs: tuple[ModelSpec, ...] = SPECS,
    ) -> Bench:
        return Bench(wire, ScriptedEngine(*script), embedder or FakeEmbedder(), specs)

    return start


async def test_deltas_come_as_they_are_and_the_usage_record_does_not(bench: Start) -> None:
    async with bench(*WHOLE).generate() as answer:
        assert [delta async for delta in answer.deltas] == [ROLE, HELLO, STOP, usage_frame()]


async def test_engine_that_is_not_there_is_waited_for_by_no_endpoint(wire: Wire) -> None:
    engine, embedder = ScriptedEngine(*WHOLE), FakeEmbedder()
    engines = {"chat": engine, "other": ScriptedEngine()}
    pipeline, _, _ = wire(SPECS, engines, {"embed": embedder}, is_ready=lambda _: False)
    call: dict[str, Any] = {"request_id": "r1", "principal": ANYONE}
    generating = GenerationCall(
        **call, model="chat", kind="chat", body={"messages": []}, stream=True
    )
    with pytest.raises(EngineUnavailable):
        async with pipeline.generate(generating):
            pass
    with pytest.raises(EngineUnavailable):
        await pipeline.embed(EmbeddingCall(**call, model="embed", inputs=["a"], dimensions=None))
    with pytest.raises(EngineUnavailable):
        await pipeline.tokenize(Call(**call, model="chat"), TokenizeRequest(prompt="a"))
    with pytest.raises(EngineUnavailable):
        await pipeline.detokenize(Call(**call, model="chat"), [1])
    assert (engine.requests, engine.tokenized, embedder.inputs) == ([], [], [])


async def test_record_is_settled_once_when_the_scope_ends(bench: Start) -> None:
    running = bench(*WHOLE)
    async with running.generate() as answer:
        assert running.sample("ringfence_running_requests", model="chat") == 1
        _ = [delta async for delta in answer.deltas]
        assert running.outcomes() == {}
    assert running.outcomes() == {"ok": 1}
    assert running.sample("ringfence_running_requests", model="chat") == 0
    assert running.sample("ringfence_tokens_total", model="chat", kind="prompt") == 3
    assert running.sample("ringfence_tokens_total", model="chat", kind="completion") == 2
    assert running.sample("ringfence_time_to_first_token_seconds_count", model="chat") == 1


async def test_leaving_the_scope_early_stops_the_engine(bench: Start) -> None:
    running = bench(*WHOLE)
    async with running.generate() as answer:
        await anext(answer.deltas)
        assert running.engine.open == 1
    assert running.engine.open == 0


async def test_exception_in_the_scope_stops_the_engine_and_is_counted(bench: Start) -> None:
    running = bench(*WHOLE)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  What follows the raise is the test.
        async with running.generate() as answer:
            await anext(answer.deltas)
            raise ZeroDivisionError
    assert running.engine.open == 0
    assert running.outcomes() == {"error": 1}


@pytest.mark.parametrize("before", [(), (ROLE,)], ids=["before_the_first_delta", "after"])
async def test_cancellation_stops_the_engine_and_is_counted(
    bench: Start, before: tuple[bytes, ...]
) -> None:
    running = bench(*before, asyncio.Event())

    async def consume() -> None:
        async with running.generate() as answer:
            async for _ in answer.deltas:
                pass

    task = asyncio.create_task(consume())
    await running.engine.started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running.engine.open == 0
    assert running.outcomes() == {"cancelled": 1}


async def test_failure_before_the_first_delta_is_raised_on_entering(bench: Start) -> None:
    running = bench(EngineOverloaded("Busy."))
    with pytest.raises(EngineOverloaded):
        await running.generate().__aenter__()
    assert running.outcomes() == {"overloaded": 1}


async def test_failure_after_the_first_delta_is_raised_while_reading(bench: Start) -> None:
    running = bench(ROLE, EngineFailed("Broke."))
    read = []
    with pytest.raises(EngineFailed):  # noqa: PT012  What was read before it counts.
        async with running.generate() as answer:
            async for delta in answer.deltas:
                read.append(delta)  # noqa: PERF401  The list outlives the failure.
    assert read == [ROLE]
    assert running.outcomes() == {"engine_failed": 1}


async def test_answer_without_a_usage_record_is_a_failure(bench: Start) -> None:
    running = bench(ROLE, STOP)
    with pytest.raises(EngineFailed, match="usage"):
        async with running.generate() as answer:
            _ = [delta async for delta in answer.deltas]
    assert running.outcomes() == {"engine_failed": 1}


async def test_model_that_cannot_be_used_starts_and_counts_nothing(bench: Start) -> None:
    running = bench(*WHOLE)
    with pytest.raises(UnknownModel):
        await running.generate(principal=LIMITED).__aenter__()
    assert running.engine.requests == []
    assert running.outcomes() == {}


@pytest.mark.parametrize(("stream", "interval"), [(True, 1), (False, COLLECTED_STREAM_INTERVAL)])
async def test_answers_that_are_collected_come_in_larger_deltas(
    bench: Start, *, stream: bool, interval: int
) -> None:
    running = bench(*WHOLE)
    async with running.generate(stream=stream):
        assert running.engine.requests[0].stream_interval == interval


@pytest.mark.parametrize(("stream", "larger"), [(True, 8), (False, COLLECTED_STREAM_INTERVAL)])
@pytest.mark.parametrize(
    ("parsers", "body", "parsed"),
    [
        ({"tool_call_parser": "hermes"}, {"tools": [{}]}, True),
        ({"tool_call_parser": "hermes"}, {"tools": [{}], "tool_choice": "none"}, False),
        ({"tool_call_parser": "hermes"}, {}, False),
        ({"reasoning_parser": "qwen3"}, {}, True),
        ({}, {"tools": [{}]}, False),
    ],
)
async def test_answers_that_a_parser_reads_come_token_by_token(  # noqa: PLR0917  A table.
    bench: Start,
    parsers: dict[str, str],
    body: dict[str, Any],
    parsed: bool,
    stream: bool,
    larger: int,
) -> None:
    spec = SPECS[0].model_copy(update={"stream_interval": 8} | parsers)
    running = bench(*WHOLE, specs=(spec,))
    async with running.generate(stream=stream, **body):
        assert running.engine.requests[0].stream_interval == (1 if parsed else larger)


async def test_model_may_have_larger_deltas_in_streams(bench: Start) -> None:
    coarse = SPECS[0].model_copy(update={"stream_interval": 8})
    running = bench(*WHOLE, specs=(coarse,))
    async with running.generate():
        assert running.engine.requests[0].stream_interval == 8


async def test_cache_salt_cannot_be_told_from_the_tenant_s_name(bench: Start) -> None:
    running = bench(*WHOLE)
    async with running.generate():
        salt = running.engine.requests[0].body["cache_salt"]
    assert len(bytes.fromhex(salt)) == 32
    assert "acme" not in salt


async def test_nothing_is_searched_where_no_embedder_is_served(bench: Start) -> None:
    running = bench(*WHOLE)
    search = SearchCall(request_id="r1", principal=ANYONE, store_ids=["vs_1"], queries=["Why?"])
    with pytest.raises(Unsupported, match="No embedding model is served here"):
        await running.pipeline.search(search)
    with pytest.raises(Unsupported, match="No embedding model is served here") as caught:
        await running.generate(file_search=FileSearch(["vs_1"])).__aenter__()
    assert (caught.value.param, running.engine.requests) == ("file_search", [])


async def test_embedding_is_metered(bench: Start) -> None:
    running = bench()
    await running.embed("Hi", "Hello")
    assert running.outcomes() == {"ok": 1}
    assert running.sample("ringfence_tokens_total", model="embed", kind="prompt") == 7


async def test_too_many_dimensions_are_refused_before_the_embedder_is_asked(bench: Start) -> None:
    embedder = FakeEmbedder()
    with pytest.raises(InvalidRequest, match=f"at most {DIMENSION}"):
        await bench(embedder=embedder).embed("Hi", dimensions=DIMENSION + 1)
    assert embedder.inputs == []


async def test_cancelled_embedding_is_counted(bench: Start) -> None:
    embedder = FakeEmbedder(asyncio.Event())
    running = bench(embedder=embedder)
    task = asyncio.create_task(running.embed("Hi"))
    await embedder.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (embedder.open, running.outcomes()) == (0, {"cancelled": 1})


@pytest.mark.parametrize(
    ("task", "model"), [("embed", "chat"), ("generate", "embed")], ids=["embed", "generate"]
)
def test_model_of_another_task_is_refused(bench: Start, task: str, model: str) -> None:
    with pytest.raises(InvalidRequest, match=f"does not {task}"):
        bench().pipeline.model(ANYONE, model, task=task)


def test_models_that_a_principal_may_use_keep_their_order(bench: Start) -> None:
    pipeline = bench().pipeline
    assert [spec.id for spec in pipeline.models(ANYONE)] == ["chat", "other", "embed"]
    assert [spec.id for spec in pipeline.models(LIMITED)] == ["embed"]


async def test_key_s_principal_is_the_caller(bench: Start, keys: Keys) -> None:
    pipeline = bench().pipeline
    assert (await pipeline.authenticate(f"Bearer {keys.globex}")).tenant == "globex"
    assert (await pipeline.authenticate(f"bearer {FIXED_KEY}")).key_id == "env"


@pytest.mark.parametrize(
    ("authorization", "error"), [(None, MissingKey), ("Bearer nope", InvalidKey)]
)
async def test_caller_without_a_good_key_is_refused(
    bench: Start, authorization: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await bench().pipeline.authenticate(authorization)


async def test_admin_key_is_refused(bench: Start, keys: Keys) -> None:
    with pytest.raises(NotPermitted):
        await bench().pipeline.authenticate(f"Bearer {keys.admin}")
