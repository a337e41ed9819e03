"""OpenAI's stream format, written and read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import Usage
from models.openai_stream import (
    DONE,
    WITH_USAGE,
    answer_id,
    chat_choice,
    chunks,
    event,
    head,
    head_of,
    usage_chunk,
    usage_object,
    usage_of,
    wants_usage,
)

HEAD = {"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 17, "model": "m"}

counts = st.integers(min_value=0, max_value=2**31 - 1)
usages = st.builds(Usage, counts, counts, counts)
documents = st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none())


@given(st.lists(documents))
def test_chunks_of_a_delta_are_those_of_its_events(written: list[dict[str, Any]]) -> None:
    assert list(chunks(b"".join(map(event, written)))) == written


def test_comments_between_events_are_no_chunks() -> None:
    assert list(chunks(b": keep-alive\n\n" + event({"a": 1}) + b": ping\n\n")) == [{"a": 1}]


def test_event_is_one_line_and_a_blank_one() -> None:
    assert event({"text": "one\n\ndata: two"}) == b'data: {"text":"one\\n\\ndata: two"}\n\n'
    assert DONE == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("chat", HEAD), ("completion", HEAD | {"id": "cmpl-r1", "object": "text_completion"})],
)
def test_head_names_the_answer_and_its_kind(kind: Any, expected: dict[str, Any]) -> None:
    assert head(kind, answer_id(kind, "r1"), model="m", created=17.9) == expected


def test_head_of_a_chunk_is_what_its_answer_shares() -> None:
    assert head_of(HEAD | {"choices": [chat_choice(0, {"content": "a"})], "usage": None}) == HEAD


def test_choice_has_no_end_unless_it_is_given_one() -> None:
    assert chat_choice(1, {}) == {
        "index": 1,
        "delta": {},
        "logprobs": None,
        "finish_reason": None,
    }
    assert chat_choice(1, {}, finish_reason="stop")["finish_reason"] == "stop"


@given(usages)
def test_usage_is_read_as_it_was_written(usage: Usage) -> None:
    assert usage_of(usage_object(usage)) == usage
    assert usage_object(usage)["total_tokens"] == usage.total_tokens


@pytest.mark.parametrize(
    "details",
    [{}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {"cached_tokens": None}}],
)
def test_usage_without_cached_tokens_has_none(details: dict[str, Any]) -> None:
    assert usage_of({"prompt_tokens": 3, "completion_tokens": 2} | details) == Usage(3, 2, 0)


def test_last_chunk_keeps_details_but_not_the_counts_beside_them() -> None:
    details = {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 4}}
    assert usage_chunk(HEAD, Usage(3, 5, 2), details) == HEAD | {
        "choices": [],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (None, False),
        ({}, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
    ],
)
def test_usage_is_wanted_only_if_asked_for(options: Any, *, wanted: bool) -> None:
    assert wants_usage({"stream_options": options}) is wanted
    assert wants_usage({}) is False
    assert wants_usage(dict(WITH_USAGE)) is True
