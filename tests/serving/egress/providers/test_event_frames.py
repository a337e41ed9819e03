from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.providers.event_frames import EventFrames
from serving.egress.providers.provider import ProviderBroken

BODY = "data: {}\n\n: ping\r\n\r\nevent: ä\r\ndata: 1\r\r\ndata: 2\n\n\ndata: no end\n".encode()


def frames(*, event_bytes: int = 1000, events: int = 1000) -> EventFrames:
    return EventFrames(max_event_bytes=event_bytes, max_events=events)


def fed(body: bytes, cuts: list[int]) -> bytes:
    cutter = frames()
    places = [0, *sorted(cuts), len(body)]
    return b"".join(cutter.feed(body[start:end]) for start, end in pairwise(places))


def events(body: bytes) -> list[bytes]:
    return [one.strip(b"\n") for one in body.split(b"\n\n") if one.strip(b"\n")]


def test_frames_are_whole_events_with_plain_line_ends() -> None:
    assert events(fed(BODY, [])) == [
        b"data: {}", b": ping", "event: ä\ndata: 1".encode(), b"data: 2",
    ]  # fmt: skip


@given(st.lists(st.integers(0, len(BODY)), max_size=len(BODY)))
def test_frames_are_the_same_for_every_way_of_cutting(cuts: list[int]) -> None:
    assert events(fed(BODY, cuts)) == events(fed(BODY, []))


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"data: x"]), max_size=30))
def test_frames_cut_bytewise_hold_back_nothing_that_is_whole(pieces: list[bytes]) -> None:
    body = b"".join(pieces)

    assert events(fed(body, list(range(1, len(body))))) == events(fed(body, []))


def test_frames_refuse_an_event_that_does_not_end() -> None:
    cutter = frames(event_bytes=100)

    for _ in range(10):
        assert cutter.feed(b"data: xxxx") == b""
    with pytest.raises(ProviderBroken, match="too large"):
        cutter.feed(b"x")


def test_frames_refuse_too_many_events() -> None:
    cutter = frames(events=10)

    with pytest.raises(ProviderBroken, match="too many"):
        cutter.feed(b": ping\n\n" * 11)
