from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.providers.anthropic_events import ENDS, MessageAnswer
from serving.egress.providers.provider import ProviderBroken
from serving.egress.providers.tool_names import ToolNames
from tests.serving.egress.wire_format import HELLO

GOLDEN = sorted((Path(__file__).parent / "golden" / "answers").glob("*.json"))
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def answer(*tools: str) -> MessageAnswer:
    return MessageAnswer(HEAD, ToolNames(tools))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_answers_become_the_chunks_written_down(path: Path) -> None:
    case = orjson.loads(path.read_bytes())
    message = answer(*case.get("tools", []))

    chunks = [chunk for event in case["events"] for chunk in message.chunks(event)]

    assert chunks == [HEAD | {"choices": [choice]} for choice in case["choices"]]
    assert asdict(message.usage()) == case["usage"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_answer_is_not_whole_before_its_stop_reason(path: Path) -> None:
    case = orjson.loads(path.read_bytes())
    message = answer(*case.get("tools", []))
    for event in case["events"][:-2]:
        message.chunks(event)

    with pytest.raises(ProviderBroken, match="cut short"):
        message.usage()


@pytest.mark.parametrize(("reason", "expected"), ENDS.items())
def test_every_stop_reason_has_a_finish_reason(reason: str, expected: str) -> None:
    event = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}}

    (chunk,) = answer().chunks(event)

    assert chunk["choices"][0]["finish_reason"] == expected


def begun(at: int) -> dict[str, Any]:
    block = {"type": "tool_use", "id": f"call_{at}", "name": "clock", "input": {}}
    return {"type": "content_block_start", "index": at, "content_block": block}


@pytest.mark.parametrize("reason", sorted(ENDS))
def test_arguments_are_made_up_only_for_calls_that_are_complete(reason: str) -> None:
    message = answer("clock")
    events: list[dict[str, Any]] = [
        begun(0),
        {"type": "content_block_stop", "index": 0},
        begun(1),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}},
    ]
    told = ["", ""]
    for chunk in [chunk for event in events for chunk in message.chunks(event)]:
        for call in chunk["choices"][0]["delta"].get("tool_calls", []):
            told[call["index"]] += call["function"]["arguments"]
    assert told == ["{}", "{}" if reason in {"end_turn", "tool_use"} else ""]


def test_an_unknown_stop_reason_is_no_end() -> None:
    event = {"type": "message_delta", "delta": {"stop_reason": "tired"}, "usage": {}}

    with pytest.raises(ProviderBroken):
        answer().chunks(event)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": 5},
        {"type": "message_start"},
        {"type": "message_start", "message": {"usage": {"input_tokens": -1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}},
        {"type": "content_block_delta", "index": "0", "delta": {}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 1}},
        {"type": "message_delta", "delta": {"stop_reason": ["end_turn"]}, "usage": {}},
    ],
)
def test_a_malformed_event_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(ProviderBroken):
        answer().chunks(event)


@given(st.data())
def test_an_event_with_any_value_in_any_place_gives_chunks_or_is_refused(data: Any) -> None:
    event = orjson.loads(orjson.dumps(data.draw(st.sampled_from(HELLO.anthropic()))))
    place = event
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        inner = place[name]
        if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
            place[name] = data.draw(JSON)
            break
        place = inner

    try:
        chunks = answer().chunks(event)
    except ProviderBroken:
        return
    for chunk in chunks:
        for text in chunk["choices"][0]["delta"].values():
            assert isinstance(text, str | list)
