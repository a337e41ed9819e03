"""Frames: decoding returns what was encoded, however the network splits it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.delivery import frames
from models.delivery.frames import Address, FrameKind, FrameParser, MalformedFrame
from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineOverloaded,
    Failure,
    RequestRejected,
    Usage,
)

ITEMS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=8)


@given(items=ITEMS, data=st.data())
def test_frames_survive_any_split(items: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(part for number, item in items for part in frames.encode(number, item))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parser = FrameParser()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    parsed = [frame for piece in pieces for frame in parser.feed(piece)]
    assert parsed == [(number, FrameKind.DELTA, item) for number, item in items]


def test_usage_survives() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=1)
    _, payload = frames.encode(1, usage)
    assert frames.usage(payload) == usage


@pytest.mark.parametrize("error", [EngineError, RequestRejected, ContextLengthExceeded])
def test_failure_survives_with_its_type_and_field(error: type[EngineError]) -> None:
    failure = Failure(error, 'Not "that".', "messages")
    _, payload = frames.encode(1, failure)
    assert frames.failure(payload) == failure


def test_failure_without_a_field_survives() -> None:
    failure = Failure(EngineOverloaded, "Later.")
    assert frames.failure(frames.encode(1, failure)[1]) == failure


@pytest.mark.parametrize(
    "header", [b"\xff\xff\xff\xff" + bytes(9), bytes(12) + b"\x09"], ids=["too_long", "of_no_kind"]
)
def test_bytes_that_are_no_frames_are_refused(header: bytes) -> None:
    with pytest.raises(MalformedFrame):
        list(FrameParser().feed(header))


def test_address_does_not_show_its_token() -> None:
    assert "canary" not in repr(Address("127.0.0.1", 1, b"canary", 1))
