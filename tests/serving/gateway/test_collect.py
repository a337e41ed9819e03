"""A collected answer equals what its deltas contain, however they are split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import Delta
from serving.gateway.collect import Collector
from tests.serving.fakes import HELLO, ROLE, STOP, chat_frame, event, text_frame, usage_frame

CALL = {"name": "weather", "arguments": '{"city": "Oslo", "days": [1, 2]}'}


def collect(frames: Sequence[Delta]) -> Any:
    collector = Collector()
    for frame in frames:
        collector.add(frame)
    return collector.answer()


def choice(frames: Sequence[Delta]) -> Any:
    return collect(frames)["choices"][0]


@st.composite
def split(draw: st.DrawFn, text: st.SearchStrategy[str]) -> list[str]:
    """Split a text into pieces, some of them empty."""
    whole = draw(text)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def grouped(draw: st.DrawFn, frames: list[Delta]) -> list[Delta]:
    """Merge some of the frames into one delta."""
    groups = [b""]
    for frame in frames:
        if draw(st.booleans()):
            groups.append(b"")
        groups[-1] += frame
    return [group for group in groups if group]


@given(st.data(), split(st.text()), split(st.text(max_size=20)))
def test_any_splitting_of_a_message_collects_to_the_same(
    data: st.DataObject, content: list[str], reasoning: list[str]
) -> None:
    frames = [ROLE]
    frames += [chat_frame({"reasoning_content": piece}) for piece in reasoning]
    frames += [chat_frame({"content": piece}) for piece in content]
    answer = collect(data.draw(grouped([*frames, STOP, usage_frame()])))
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "".join(content),
                "reasoning_content": "".join(reasoning),
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


@given(st.data(), split(st.just(CALL["arguments"])), split(st.just(CALL["arguments"])))
def test_any_splitting_of_tool_calls_collects_to_the_same(
    data: st.DataObject, first: list[str], second: list[str]
) -> None:
    def frames(index: int, pieces: list[str]) -> list[Delta]:
        opening = {"index": index, "id": f"call-{index}", "type": "function"}
        heads = [opening | {"function": {"name": CALL["name"], "arguments": ""}}]
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        return [chat_frame({"tool_calls": [part]}) for part in heads + rest]

    sent = [ROLE, *frames(0, first), *frames(1, second), chat_frame({}, finish="tool_calls")]
    answer = choice(data.draw(grouped(sent)))
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": f"call-{index}", "type": "function", "function": CALL} for index in (0, 1)
        ],
    }


@given(st.permutations([(0, "a"), (0, "b"), (1, "c"), (1, "d"), (2, "e")]))
def test_choices_that_interleave_are_kept_apart_and_in_order(order: list[tuple[int, str]]) -> None:
    answer = collect([text_frame(text, index=index) for index, text in order])
    said = ["".join(text for at, text in order if at == index) for index in range(3)]
    assert [(one["index"], one["text"]) for one in answer["choices"]] == list(enumerate(said))


def test_parallel_tool_calls_in_one_delta_are_all_kept() -> None:
    calls = [{"index": at, "id": f"c{at}", "type": "function", "function": CALL} for at in range(2)]
    message = choice([ROLE, chat_frame({"tool_calls": calls})])["message"]
    assert [call["id"] for call in message["tool_calls"]] == ["c0", "c1"]


def test_text_before_a_tool_call_is_kept() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": CALL}
    message = choice([ROLE, HELLO, chat_frame({"tool_calls": [call]})])["message"]
    assert message["content"] == "Hello"


def test_message_of_no_text_has_an_empty_one() -> None:
    assert choice([ROLE, STOP])["message"] == {
        "role": "assistant", "content": "", "refusal": None
    }  # fmt: skip


def test_chat_logprobs_are_joined_in_order() -> None:
    def logprobs(token: str) -> Any:
        return {"content": [{"token": token, "logprob": -1.0, "bytes": None, "top_logprobs": []}]}

    frames = [chat_frame({"content": t}, logprobs=logprobs(t)) for t in "abc"]
    tokens = [row["token"] for row in choice([ROLE, *frames])["logprobs"]["content"]]
    assert tokens == ["a", "b", "c"]


def test_completion_logprobs_are_joined_field_by_field() -> None:
    def logprobs(at: int) -> Any:
        return {"tokens": [f"t{at}"], "token_logprobs": [-float(at)], "text_offset": [at],
                "top_logprobs": [{f"t{at}": -float(at)}]}  # fmt: skip

    joined = choice([text_frame(f"t{at}", logprobs=logprobs(at)) for at in (1, 2)])["logprobs"]
    assert joined == {
        "tokens": ["t1", "t2"],
        "token_logprobs": [-1.0, -2.0],
        "text_offset": [1, 2],
        "top_logprobs": [{"t1": -1.0}, {"t2": -2.0}],
    }


def test_keys_of_the_engine_s_own_are_left_out() -> None:
    chunk = orjson.loads(HELLO[6:]) | {"prompt_token_ids": [1], "kv_transfer_params": {}}
    answer = collect([ROLE, event(chunk)])
    assert answer.keys() == {"id", "object", "created", "model", "choices", "usage"}


@pytest.mark.parametrize(
    ("frame", "kind"), [(ROLE, "chat.completion"), (text_frame("a"), "text_completion")]
)
def test_answer_is_named_after_its_stream(frame: Delta, kind: str) -> None:
    assert collect([frame])["object"] == kind


def test_comments_between_events_are_skipped() -> None:
    assert choice([ROLE, b": keep-alive\n\n" + HELLO])["message"]["content"] == "Hello"
