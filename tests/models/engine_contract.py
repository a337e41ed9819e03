"""What every `Engine` promises, as one suite: each implementation is held to all of it.

A test module makes a subclass for an engine and gives it a fixture `subject`. Knows nothing of how
an engine works; where one lacks something that the protocol leaves open, its `Subject` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import orjson
import pytest

from models.engine import (
    ContextLengthExceeded,
    Delta,
    Engine,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    GenerationRequest,
    Kind,
    RequestRejected,
    TokenizeRequest,
    Usage,
)
from serving.gateway.collect import Collector

HANG_S = 120.0
"""Against a test that would wait for ever. No engine is held to a speed."""

CANARY = "quartz-heron-5519"
DRAWN: dict[str, Any] = {"temperature": 1, "seed": 7}
"""Sampled, for several choices: an engine need not give more than one greedy answer."""

MESSAGES = [{"role": "user", "content": "Name three colours, please."}]

_numbers = count(1)


@dataclass(frozen=True)
class Subject:
    """An engine, and what its configuration allows.

    `slots` requests run at once, and `most_open` are held before one is refused. `impatient` is the
    same engine with deadlines that nobody can keep; None where an engine has no deadlines.
    """

    engine: Engine
    model: str
    context_tokens: int
    slots: int
    most_open: int
    has_logprobs: bool
    impatient: Engine | None = None


@dataclass
class Answer:
    """All that came of one request."""

    deltas: list[Delta] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    last: Delta | Usage | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for delta in self.deltas for event in events_of(delta)]

    @property
    def usage(self) -> Usage:
        [usage] = self.usages
        return usage

    def pieces(self, index: int = 0) -> list[dict[str, Any]]:
        """What was sent of one choice."""
        choices = [one for event in self.events for one in event["choices"]]
        return [choice for choice in choices if choice["index"] == index]

    def text(self, index: int = 0) -> str:
        return "".join(text_of(piece) for piece in self.pieces(index))

    def finishes(self, index: int = 0) -> list[str]:
        reasons = [piece["finish_reason"] for piece in self.pieces(index)]
        return [reason for reason in reasons if reason is not None]

    def collected(self) -> dict[str, Any]:
        """The unstreamed answer, as the gateway makes it."""
        collector = Collector()
        for delta in self.deltas:
            collector.add(delta)
        return collector.answer()


def events_of(delta: Delta) -> list[dict[str, Any]]:
    """The events of a delta, which has to hold whole ones and nothing else."""
    assert delta.endswith(b"\n\n")
    events = delta.removesuffix(b"\n\n").split(b"\n\n")
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


def text_of(piece: dict[str, Any]) -> str:
    text: str | None = piece["delta"].get("content") if "delta" in piece else piece["text"]
    return text or ""


def asked(kind: Kind, body: dict[str, Any], *, interval: int = 1) -> GenerationRequest:
    return GenerationRequest(f"contract-{next(_numbers)}", kind, body, interval)


def chat(*, interval: int = 1, **fields: Any) -> GenerationRequest:
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12}
    return asked("chat", body | fields, interval=interval)


def completion(prompt: Any, **fields: Any) -> GenerationRequest:
    return asked("completion", {"prompt": prompt, "temperature": 0, "max_tokens": 6} | fields)


def lasting(tokens: int) -> GenerationRequest:
    """A request that has a slot for as many steps as it asks for tokens."""
    return chat(max_tokens=tokens, ignore_eos=True)


async def answered(engine: Engine, request: GenerationRequest) -> Answer:
    answer = Answer()
    async with asyncio.timeout(HANG_S), aclosing(engine.generate(request)) as items:
        async for item in items:
            answer.last = item
            if isinstance(item, Usage):
                answer.usages.append(item)
            else:
                answer.deltas.append(item)
    return answer


async def refused(engine: Engine, request: GenerationRequest) -> EngineError:
    """The error of a request that is refused before anything of it was answered."""
    with pytest.raises(EngineError) as caught:
        async with asyncio.timeout(HANG_S), aclosing(engine.generate(request)) as items:
            await anext(items)
    return caught.value


class EngineContract:
    """Tests of one engine; see this module."""

    async def test_deltas_are_whole_events_and_the_usage_is_last_and_only_once(
        self, subject: Subject
    ) -> None:
        answer = await answered(subject.engine, chat())
        assert all(event["object"] == "chat.completion.chunk" for event in answer.events)
        assert len(answer.usages) == 1
        assert answer.last == answer.usage

    async def test_tokens_arrive_as_they_are_made(self, subject: Subject) -> None:
        async with asyncio.timeout(HANG_S), aclosing(subject.engine.generate(chat())) as items:
            first = await anext(items)
        assert isinstance(first, bytes)
        assert all(
            piece["finish_reason"] is None
            for event in events_of(first)
            for piece in event["choices"]
        )

    @pytest.mark.parametrize("kind", ["chat", "completion"])
    async def test_events_of_an_answer_share_their_head(self, subject: Subject, kind: Kind) -> None:
        request = chat() if kind == "chat" else completion("One, two,")
        answer = await answered(subject.engine, request)
        heads = {(one["id"], one["object"], one["created"], one["model"]) for one in answer.events}
        [(name, shape, created, model)] = heads
        assert request.request_id in name
        assert shape == ("chat.completion.chunk" if kind == "chat" else "text_completion")
        assert created > 0
        assert model == subject.model

    async def test_every_choice_of_a_chat_begins_with_its_role_and_says_it_once(
        self, subject: Subject
    ) -> None:
        answer = await answered(subject.engine, chat(n=2, **DRAWN))
        for index in (0, 1):
            roles = [piece["delta"].get("role") for piece in answer.pieces(index)]
            assert roles[0] == "assistant"
            assert set(roles[1:]) <= {None}

    @pytest.mark.parametrize("kind", ["chat", "completion"])
    async def test_every_choice_ends_once_with_its_reason_as_its_last_event(
        self, subject: Subject, kind: Kind
    ) -> None:
        fields: dict[str, Any] = {"n": 3, "max_tokens": 5, "ignore_eos": True} | DRAWN
        request = chat(**fields) if kind == "chat" else completion("One, two,", **fields)
        answer = await answered(subject.engine, request)
        for index in range(3):
            assert answer.finishes(index) == ["length"]
            assert answer.pieces(index)[-1]["finish_reason"] == "length"
            assert answer.text(index)
        assert answer.pieces(3) == []
        assert answer.usage.completion_tokens == 15

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    async def test_answer_ends_at_the_limit(self, subject: Subject, field: str) -> None:
        limits: dict[str, Any] = {"max_tokens": None, field: 7}
        answer = await answered(subject.engine, chat(**limits, ignore_eos=True))
        assert answer.finishes() == ["length"]
        assert answer.usage.completion_tokens == 7

    async def test_stop_text_ends_the_answer_before_it(self, subject: Subject) -> None:
        whole = (await answered(subject.engine, chat(max_tokens=24, ignore_eos=True))).text()
        word = whole.split()[3]
        stop = ["no such text", f"{whole[whole.index(word) - 2]} {word[:2]}"]
        stopped = await answered(subject.engine, chat(max_tokens=24, ignore_eos=True, stop=stop))
        assert stopped.text() == whole[: whole.index(stop[1])]
        assert stopped.finishes() == ["stop"]
        assert stopped.usage.completion_tokens < 24

    @pytest.mark.parametrize("fields", [{"stream": True}, {"stream": False}, {"interval": 5}])
    async def test_answer_is_the_same_however_it_is_sent(
        self, subject: Subject, fields: dict[str, Any]
    ) -> None:
        expected = await answered(subject.engine, chat(max_tokens=20))
        answer = await answered(subject.engine, chat(max_tokens=20, **fields))
        assert answer.text() == expected.text()
        assert answer.finishes() == expected.finishes()
        assert answer.usage.total_tokens == expected.usage.total_tokens

    async def test_interval_says_how_many_tokens_a_later_event_carries(
        self, subject: Subject
    ) -> None:
        fields = {"max_tokens": 17, "ignore_eos": True, "return_token_ids": True}
        answer = await answered(subject.engine, chat(interval=8, **fields))
        counts = [len(piece.get("token_ids") or ()) for piece in answer.pieces()]
        assert [count for count in counts if count] == [1, 8, 8]

    async def test_unstreamed_answer_has_what_was_streamed(self, subject: Subject) -> None:
        usage = {"include_usage": True}
        answer = await answered(subject.engine, chat(n=2, stream_options=usage, **DRAWN))
        whole = answer.collected()
        assert whole["object"] == "chat.completion"
        assert [choice["message"]["content"] for choice in whole["choices"]] == [
            answer.text(0),
            answer.text(1),
        ]
        assert [[choice["finish_reason"]] for choice in whole["choices"]] == [
            answer.finishes(0),
            answer.finishes(1),
        ]
        assert whole["usage"]["completion_tokens"] == answer.usage.completion_tokens

    async def test_usage_event_comes_only_when_asked_for_and_says_what_the_record_says(
        self, subject: Subject
    ) -> None:
        plain = await answered(subject.engine, chat())
        assert all(event["choices"] and not event.get("usage") for event in plain.events)
        answer = await answered(subject.engine, chat(stream_options={"include_usage": True}))
        *others, last = answer.events
        assert all(event["choices"] and not event.get("usage") for event in others)
        assert last["choices"] == []
        assert {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "total_tokens": answer.usage.total_tokens,
        }.items() <= last["usage"].items()

    async def test_choices_of_a_completion_are_numbered_prompt_by_prompt(
        self, subject: Subject
    ) -> None:
        prompts = ["One two three", "Red and green"]
        both = await answered(subject.engine, completion(prompts, n=2, **DRAWN))
        counted = [
            len((await subject.engine.tokenize(TokenizeRequest(prompt=one))).ids) for one in prompts
        ]
        assert [len(both.finishes(index)) for index in range(5)] == [1, 1, 1, 1, 0]
        assert both.usage.prompt_tokens == sum(counted)
        each = [await answered(subject.engine, completion(one)) for one in prompts]
        greedy = await answered(subject.engine, completion(prompts))
        assert [greedy.text(0), greedy.text(1)] == [one.text() for one in each]

    async def test_prompt_of_token_ids_is_the_prompt_of_its_text(self, subject: Subject) -> None:
        ids = (await subject.engine.tokenize(TokenizeRequest(prompt="The sky is"))).ids
        by_text = await answered(subject.engine, completion("The sky is"))
        by_ids = await answered(subject.engine, completion(ids))
        assert by_ids.text() == by_text.text()
        assert by_ids.usage.total_tokens == by_text.usage.total_tokens

    async def test_token_ids_are_told_beside_their_text(self, subject: Subject) -> None:
        prompt = await subject.engine.tokenize(TokenizeRequest(messages=MESSAGES))
        answer = await answered(
            subject.engine, chat(max_tokens=9, ignore_eos=True, return_token_ids=True)
        )
        ids = [one for piece in answer.pieces() for one in piece.get("token_ids") or ()]
        assert answer.events[0]["prompt_token_ids"] == prompt.ids
        assert len(ids) == answer.usage.completion_tokens == 9
        assert await subject.engine.detokenize(ids) == answer.text()

    async def test_chat_goes_on_with_its_last_message(self, subject: Subject) -> None:
        whole = (await answered(subject.engine, chat(max_tokens=24, ignore_eos=True))).text()
        said = " ".join(whole.split(" ")[:3])
        going_on = {"continue_final_message": True, "add_generation_prompt": False}
        messages = [*MESSAGES, {"role": "assistant", "content": said}]
        rest = await answered(
            subject.engine, chat(messages=messages, max_tokens=4, ignore_eos=True, **going_on)
        )
        assert whole.startswith(said + rest.text())
        assert rest.text()

    async def test_logprobs_cover_every_token_where_the_engine_has_them(
        self, subject: Subject
    ) -> None:
        answer = await answered(subject.engine, chat(logprobs=True, top_logprobs=2, max_tokens=6))
        told = [piece["logprobs"] for piece in answer.pieces() if piece["logprobs"]]
        if not subject.has_logprobs:
            assert told == []
            return
        tokens = [token for one in told for token in one["content"]]
        assert "".join(token["token"] for token in tokens).startswith(answer.text())
        assert len(tokens) == answer.usage.completion_tokens
        assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in tokens)

    async def test_answers_at_the_same_time_stay_apart(self, subject: Subject) -> None:
        requests = [
            chat(max_tokens=limit, ignore_eos=True) for limit in range(3, 3 + subject.slots)
        ]
        answers = await asyncio.gather(*[answered(subject.engine, one) for one in requests])
        for request, answer in zip(requests, answers, strict=True):
            assert all(request.request_id in event["id"] for event in answer.events)
            assert answer.usage.completion_tokens == request.body["max_tokens"]
            assert answer.finishes() == ["length"]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"n": 1_000_000}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
        ],
        ids=["n", "no_tokens", "fewer_than_none"],
    )
    async def test_field_out_of_bounds_is_rejected_by_its_name(
        self, subject: Subject, fields: dict[str, Any], param: str
    ) -> None:
        messages = [{"role": "user", "content": CANARY}]
        error = await refused(subject.engine, chat(messages=messages, **fields))
        assert type(error) is RequestRejected
        assert error.param == param
        assert CANARY not in error.message

    @pytest.mark.parametrize("too_long", ["prompt", "answer"])
    async def test_what_does_not_fit_the_context_is_refused_as_that(
        self, subject: Subject, too_long: str
    ) -> None:
        words = subject.context_tokens if too_long == "prompt" else 1
        messages = [{"role": "user", "content": f"{CANARY} " * words}]
        error = await refused(
            subject.engine, chat(messages=messages, max_tokens=subject.context_tokens)
        )
        assert isinstance(error, ContextLengthExceeded)
        assert CANARY not in error.message

    async def test_token_id_outside_the_vocabulary_is_rejected(self, subject: Subject) -> None:
        assert isinstance(await refused(subject.engine, completion([10**9])), RequestRejected)
        with pytest.raises(RequestRejected) as caught:
            await subject.engine.detokenize([10**9])
        assert caught.value.param == "tokens"

    async def test_refused_request_leaves_the_engine_answering(self, subject: Subject) -> None:
        for _ in range(subject.most_open + 1):
            await refused(subject.engine, chat(n=1_000_000))
        assert (await answered(subject.engine, chat())).usages

    async def test_tokens_are_those_of_the_text(self, subject: Subject) -> None:
        text = "Łódź above the hill 🙂"
        tokens = await subject.engine.tokenize(TokenizeRequest(prompt=text, return_token_strs=True))
        assert await subject.engine.detokenize(tokens.ids) == text
        assert tokens.context_tokens == subject.context_tokens
        assert tokens.strings is not None
        assert len(tokens.strings) == len(tokens.ids)
        plain = await subject.engine.tokenize(TokenizeRequest(prompt=text))
        assert (plain.ids, plain.strings) == (tokens.ids, None)

    async def test_tokens_of_messages_are_those_that_an_answer_is_charged_for(
        self, subject: Subject
    ) -> None:
        tools = [{"type": "function", "function": {"name": "ping", "parameters": {}}}]
        kinds: tuple[dict[str, Any], ...] = ({}, {"tools": tools})
        for more in kinds:
            tokens = await subject.engine.tokenize(
                TokenizeRequest(messages=MESSAGES, tools=more.get("tools"))
            )
            answer = await answered(subject.engine, chat(max_tokens=1, **more))
            assert answer.usage.prompt_tokens == len(tokens.ids)

    async def test_generator_that_is_never_started_asks_for_nothing(self, subject: Subject) -> None:
        for _ in range(subject.most_open + 1):
            await subject.engine.generate(lasting(subject.context_tokens // 2)).aclose()
        assert (await answered(subject.engine, chat())).usages

    @pytest.mark.parametrize("way", ["closed", "cancelled"])
    async def test_answer_that_is_left_frees_its_slot(self, subject: Subject, way: str) -> None:
        async with _full(subject) as readings:
            waiting = asyncio.create_task(answered(subject.engine, lasting(1)))
            await readings[0].leave(way)
            assert (await waiting).usage.completion_tokens == 1
            assert not any(reading.task.done() for reading in readings[1:])

    async def test_more_than_the_queue_holds_is_refused_and_the_rest_is_answered(
        self, subject: Subject
    ) -> None:
        async with _full(subject):
            waiting = await _queued(subject, lasting(1), refused=3)
        answers = await asyncio.gather(*waiting)
        assert [answer.usage.completion_tokens for answer in answers] == [1] * len(waiting)

    async def test_request_that_leaves_the_queue_takes_no_slot(self, subject: Subject) -> None:
        async with _full(subject) as readings:
            for task in await _queued(subject, lasting(subject.context_tokens // 2), refused=1):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await readings[0].leave("closed")
            assert (await _let_in(subject.engine)).usage.completion_tokens == 1
            assert not any(reading.task.done() for reading in readings[1:])


class RemoteEngineContract(EngineContract):
    """Tests of one engine in another process, which may fall silent."""

    async def test_silence_ends_at_the_deadline_and_the_work_with_it(
        self, subject: Subject
    ) -> None:
        assert subject.impatient is not None
        for _ in range(subject.most_open + 1):
            error = await refused(subject.impatient, lasting(subject.context_tokens // 2))
            assert type(error) is EngineTimeout
        with pytest.raises(EngineTimeout):
            await subject.impatient.tokenize(TokenizeRequest(messages=MESSAGES))
        with pytest.raises(EngineTimeout):
            await subject.impatient.detokenize([1])
        assert (await _let_in(subject.engine)).usage.completion_tokens == 1


class _Reading:
    """A request that has a slot, and a task that reads its answer."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        self.started = asyncio.Event()
        self.task = asyncio.create_task(self._read(engine, lasting(tokens)))
        self._closing = False

    async def _read(self, engine: Engine, request: GenerationRequest) -> None:
        async with aclosing(engine.generate(request)) as items:
            async for _ in items:
                self.started.set()
                if self._closing:
                    break

    async def leave(self, way: str) -> None:
        assert not self.task.done()
        if way == "closed":
            self._closing = True
        else:
            self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def _full(subject: Subject) -> AsyncIterator[list[_Reading]]:
    """An engine whose slots are all taken; the first answer is twice as long as the others.

    If what was left went on, the others would end before its slot were free.
    """
    left, others = subject.context_tokens // 2, subject.context_tokens // 4
    async with asyncio.timeout(HANG_S):
        readings = [
            _Reading(subject.engine, left if at == 0 else others) for at in range(subject.slots)
        ]
        try:
            for reading in readings:
                await reading.started.wait()
            yield readings
        finally:
            for reading in readings:
                reading.task.cancel()
            await asyncio.wait([reading.task for reading in readings])


async def _queued(
    subject: Subject, request: GenerationRequest, *, refused: int
) -> set[asyncio.Task[Answer]]:
    """Tasks that fill the queue, after so many more were refused because it was full."""
    waiting = {
        asyncio.create_task(answered(subject.engine, replace(request, request_id=f"queued-{at}")))
        for at in range(subject.most_open - subject.slots + refused)
    }
    while refused > 0:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert {type(task.exception()) for task in done} == {EngineOverloaded}
        refused -= len(done)
    assert refused == 0
    return waiting


async def _let_in(engine: Engine) -> Answer:
    """The answer of a request that tries again until the queue has noticed who left it."""
    while True:
        try:
            return await answered(engine, lasting(1))
        except EngineOverloaded:
            await asyncio.sleep(0.01)
