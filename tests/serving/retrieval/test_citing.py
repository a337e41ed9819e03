"""Sources in the stream of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson

from serving.gateway.collect import Collector
from serving.retrieval.citing import cited

SOURCES = {"annotations": [{"type": "file_citation", "file_id": "file-1", "index": 0}]}


def event(index: int, **delta: object) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n"


async def stream(*deltas: bytes) -> AsyncIterator[bytes]:
    for delta in deltas:
        yield delta


async def test_sources_follow_the_first_event_and_change_no_other() -> None:
    deltas = [event(0, role="assistant") + event(0, content="a"), event(0, content="b")]
    came = [delta async for delta in cited(stream(*deltas), SOURCES, choices=1)]
    events = b"".join(came).split(b"\n\n")
    assert b"\n\n".join(events[:1] + events[2:]) == b"".join(deltas)
    assert orjson.loads(events[1][6:])["choices"][0]["delta"] == SOURCES


async def test_every_choice_has_its_sources_when_collected() -> None:
    collector = Collector()
    deltas = stream(event(0, role="assistant"), event(1, role="assistant"), event(1, content="b"))
    async for delta in cited(deltas, SOURCES, choices=2):
        collector.add(delta)
    messages = [choice["message"] for choice in collector.answer()["choices"]]
    assert [message["annotations"] for message in messages] == [SOURCES["annotations"]] * 2
    assert [message["content"] for message in messages] == ["", "b"]


async def test_a_comment_before_the_first_event_is_passed_on() -> None:
    deltas = [b": keep-alive\n\n", event(0, content="a")]
    came = [delta async for delta in cited(stream(*deltas), SOURCES, choices=1)]
    assert came[0] == deltas[0]
    assert b"annotations" in came[1]
