from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from subprocess import run
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import ModelSpec, Simulation
from models.engine import (
    ContextLengthExceeded,
    Delta,
    EngineFailed,
    GenerationRequest,
    Kind,
    RequestRejected,
    TokenizeRequest,
    Usage,
)
from models.simulated.engine import SimulatedEngine
from models.simulated.text import _WORDS, MARK, VOCABULARY_SIZE, decode, encode, make_answer

CHAT: dict[str, Any] = {"model": "asked", "messages": [{"role": "user", "content": "Hello"}]}


class Clock:
    """Simulated time: sleeping takes no time, and every wait is recorded."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.steps = 0

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(round(seconds, 9))
        await asyncio.sleep(0)
        self.steps += 1


def engine(*, clock: Clock | None = None, **fields: Any) -> SimulatedEngine:
    simulation = Simulation.model_validate(fields.pop("simulation", {}))
    fields = {"id": "simulated", "context_tokens": 1000} | fields
    spec = ModelSpec.model_validate({"engine": "simulated", "simulation": simulation} | fields)
    return SimulatedEngine(spec, sleep=(clock or Clock()).sleep, clock=lambda: 1_700_000_000.9)


def chat(*, interval: int = 1, **body: Any) -> GenerationRequest:
    return GenerationRequest("r1", "chat", CHAT | body, interval)


def completion(prompt: Any, **body: Any) -> GenerationRequest:
    return GenerationRequest("r1", "completion", {"prompt": prompt} | body)


async def collect(stream: AsyncGenerator[Delta | Usage, None]) -> tuple[list[Any], Usage]:
    async with aclosing(stream):
        items = [item async for item in stream]
    *deltas, usage = items
    assert isinstance(usage, Usage)
    return [parse(delta) for delta in deltas], usage


def parse(delta: Delta | Usage) -> Any:
    assert isinstance(delta, bytes)
    assert delta.startswith(b"data: ")
    assert delta.endswith(b"\n\n")
    assert delta.count(b"\n") == 2
    return orjson.loads(delta[6:])


def texts(events: list[Any], kind: Kind = "chat") -> dict[int, str]:
    said: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice["delta"]["content"] if kind == "chat" else choice["text"]
            said[choice["index"]] = said.get(choice["index"], "") + piece
    return said


async def test_chat_deltas_are_the_bytes_vllm_renders() -> None:
    stream = engine().generate(chat(max_tokens=2))
    items = [item async for item in stream]
    head = (
        b'data: {"id":"chatcmpl-r1","object":"chat.completion.chunk","created":1700000000,'
        b'"model":"simulated","choices":[{"index":0,"delta":{'
    )
    second = decode(encode("".join(texts([parse(items[2])]).values())))
    assert items == [
        head + b'"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n',
        head + b'"content":"[simulated]"},"logprobs":null,"finish_reason":null}]}\n\n',
        head + f'"content":"{second}"}},"logprobs":null,"finish_reason":"length"}}]}}\n\n'.encode(),
        Usage(prompt_tokens=len(encode(PROMPT)), completion_tokens=2),
    ]


PROMPT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


async def test_completion_deltas_are_the_bytes_vllm_renders() -> None:
    stream = engine().generate(completion("Hello", max_tokens=1))
    assert [item async for item in stream] == [
        (
            b'data: {"id":"cmpl-r1","object":"text_completion","created":1700000000,'
            b'"model":"simulated","choices":[{"index":0,"text":"[simulated]","logprobs":null,'
            b'"finish_reason":"length"}]}\n\n'
        ),
        Usage(prompt_tokens=5, completion_tokens=1),
    ]


async def test_answer_is_marked_as_simulated_and_ends_by_itself() -> None:
    events, usage = await collect(engine().generate(chat()))
    assert texts(events)[0].startswith("[simulated] ")
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert 16 <= usage.completion_tokens < 128


async def test_answer_repeats_for_the_same_request_and_differs_by_seed_and_prompt() -> None:
    async def said(**body: Any) -> str:
        events, _ = await collect(engine().generate(chat(**body)))
        return texts(events)[0]

    assert await said(seed=1) == await said(seed=1, stream=True, interval=7)
    assert await said(seed=1) != await said(seed=2)
    assert await said() != await said(messages=[{"role": "user", "content": "Goodbye"}])


async def test_fewer_tokens_give_a_prefix_of_the_same_answer() -> None:
    long, _ = await collect(engine().generate(chat(max_tokens=30, ignore_eos=True)))
    short, _ = await collect(engine().generate(chat(max_tokens=10, ignore_eos=True)))
    assert texts(long)[0].startswith(texts(short)[0])


async def test_completions_have_16_tokens_unless_asked_otherwise() -> None:
    _, usage = await collect(engine().generate(completion("Hello", ignore_eos=True)))
    assert usage.completion_tokens == 16


async def test_no_token_is_sent_before_its_step() -> None:
    clock = Clock()
    stream = engine(clock=clock).generate(chat(interval=4, max_tokens=10, ignore_eos=True))
    steps = [clock.steps async for item in stream if isinstance(item, bytes)]
    assert steps == [1, 1, 5, 9, 10]


@pytest.mark.parametrize(
    ("prompt", "indices", "prompt_tokens"),
    [
        ("abc", [0, 1], 3),
        (["abc", "de"], [0, 1, 2, 3], 5),
        ([97, 98], [0, 1], 2),
        ([[97, 98], [99]], [0, 1, 2, 3], 3),
    ],
)
async def test_completion_prompts_are_numbered_as_openai_does(
    prompt: Any, indices: list[int], prompt_tokens: int
) -> None:
    events, usage = await collect(engine().generate(completion(prompt, n=2, max_tokens=2)))
    assert sorted(texts(events, "completion")) == indices
    assert usage == Usage(prompt_tokens, 2 * len(indices))


@pytest.mark.parametrize("prompt", [[], [VOCABULARY_SIZE], [[-1]]])
async def test_completion_prompt_that_is_none_is_rejected(prompt: Any) -> None:
    with pytest.raises(RequestRejected) as caught:
        await collect(engine().generate(completion(prompt)))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("prompt", "body", "message"),
    [
        (
            "x" * 1000,
            {},
            (
                "This model's maximum context length is 1000 tokens. However, your prompt resulted"
                " in 1000 tokens. Please reduce the length of the prompt."
            ),
        ),
        (
            "x" * 990,
            {"max_tokens": 11},
            (
                "This model's maximum context length is 1000 tokens. However, you requested 1001"
                " tokens (990 in the prompt, 11 in the completion). Please reduce the length of the"
                " prompt or completion."
            ),
        ),
    ],
)
async def test_prompt_beyond_the_context_is_refused_in_openais_words(
    prompt: str, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await collect(engine().generate(completion(prompt, **body)))
    assert (caught.value.message, caught.value.param) == (message, "prompt")


async def test_every_nth_request_fails_after_some_deltas_and_frees_its_slot() -> None:
    subject = engine(simulation={"fail_every": 2})
    await collect(subject.generate(chat()))
    stream = subject.generate(chat())
    role, *said = [parse(await anext(stream)) for _ in range(4 - 1)]
    assert texts([role, *said])[0].startswith(MARK)
    await anext(stream)
    with pytest.raises(EngineFailed):
        await anext(stream)
    await collect(subject.generate(chat()))
    with pytest.raises(EngineFailed):
        await collect(subject.generate(chat(max_tokens=1)))
    assert (subject.running, subject.waiting) == (0, 0)


async def test_step_times_follow_the_batch_and_the_prompt() -> None:
    clock = Clock()
    subject = engine(
        clock=clock,
        simulation={"step_base_ms": 10, "step_per_sequence_ms": 2, "prefill_ms_per_token": 1},
    )
    await collect(subject.generate(completion("12345", n=3, max_tokens=2)))
    assert clock.waits_s == [0.010 + 3 * 0.002 + 0.005, 0.010 + 3 * 0.002]


async def test_sequences_beyond_the_batch_wait_their_turn() -> None:
    clock = Clock()
    subject = engine(
        clock=clock,
        simulation={"max_batch": 2, "step_base_ms": 0, "step_per_sequence_ms": 1}
        | {"prefill_ms_per_token": 0},
    )
    await collect(subject.generate(completion("x", n=5, max_tokens=2)))
    assert clock.waits_s == [0.002, 0.002, 0.002, 0.002, 0.001, 0.001]


async def test_idle_engine_takes_no_steps() -> None:
    clock = Clock()
    subject = engine(clock=clock)
    await collect(subject.generate(chat(max_tokens=5)))
    assert len(clock.waits_s) == 5
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(clock.waits_s) == 5
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_scheduler_that_dies_fails_its_requests() -> None:
    class Broken(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.waits_s) == 3:
                raise asyncio.CancelledError

    subject = engine(clock=Broken())
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(collect(subject.generate(chat())), timeout=60)


async def test_concurrent_requests_get_the_answers_they_get_alone() -> None:
    subject = engine(simulation={"max_batch": 3})
    alone = [await collect(subject.generate(chat(seed=i))) for i in range(8)]
    together = await asyncio.gather(*[collect(subject.generate(chat(seed=i))) for i in range(8)])
    assert together == alone


@given(st.text())
def test_tokenizing_is_reversible(text: str) -> None:
    assert decode(encode(text)) == text.encode("utf-8", "replace").decode()


@given(
    key=st.binary(max_size=8),
    limit=st.integers(1, 40),
    stop=st.lists(st.sampled_from([" ", "[sim", "a", "er ", " no such", "."]), max_size=3),
    interval=st.integers(1, 5),
)
def test_answer_pieces_join_to_the_text_before_the_first_stop(
    key: bytes, limit: int, stop: list[str], interval: int
) -> None:
    whole = make_answer(key, limit=limit, stop=(), ignore_eos=True)
    text = whole.text(0, len(whole))
    stopped = make_answer(key, limit=limit, stop=stop, ignore_eos=True)
    ends = [text.index(word) + len(word) for word in stop if word in text]
    said = "".join(stopped.text(i, i + interval) for i in range(0, len(stopped), interval))
    assert text.startswith(said)
    assert not any(word in said for word in stop)
    assert (stopped.finish == "stop") == bool(ends)
    length = len(stopped)
    if ends:
        assert any(word in whole.text(0, length) for word in stop)
        assert not any(word in whole.text(0, length - 1) for word in stop)
    else:
        assert length == len(whole)
        assert said == text


def test_answer_words_are_tokens_of_their_own() -> None:
    assert len(set(_WORDS)) == 63
    assert encode(MARK + "".join(f" {word}" for word in _WORDS)) == list(range(256, 320))


async def test_tokenize_and_detokenize_are_inverse() -> None:
    subject = engine()
    tokens = await subject.tokenize(TokenizeRequest(prompt="né above", return_token_strs=True))
    assert tokens.strings == ["n", "\ufffd", "\ufffd", " above"]
    assert tokens.context_tokens == 1000
    assert await subject.detokenize(tokens.ids) == "né above"


def test_import_stays_light() -> None:
    heavy = "{'torch', 'transformers', 'vllm', 'ray', 'sentence_transformers'}"
    code = (
        "import sys, models.engine, models.catalog, models.simulated.engine, models.prepare,"
        f" models.embedding.embedder; sys.exit(bool({heavy} & sys.modules.keys()))"
    )
    assert run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
