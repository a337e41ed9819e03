from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client.gap_reader import GapReader
from benchmarks.client.records import StreamReader
from benchmarks.servers import frames

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# As a JSON writer that puts spaces writes them.
SPACED_TOKEN = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
SPACED_USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n'


def answer(*pieces):
    chunks = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    return HEAD + b"".join(chunks) + b"0\r\n\r\n"


PLAIN = answer(frames.ROLE, *frames.TOKENS, frames.LAST_TOKEN, frames.usage_frame(9), frames.DONE)


def record_of(reader, pieces):
    for second, piece in enumerate(pieces, start=1):
        reader.feed(piece, float(second))
    return reader.record(start_s=0.0, end_s=float(len(pieces)))


@given(st.lists(st.integers(1, len(PLAIN) - 1), max_size=40, unique=True).map(sorted))
def test_any_split_of_an_answer_is_read_as_by_the_parser(bounds):
    same_as_parsed([PLAIN[a:b] for a, b in pairwise([0, *bounds, len(PLAIN)])])


def test_single_bytes_are_read_as_by_the_parser():
    same_as_parsed([PLAIN[i : i + 1] for i in range(len(PLAIN))])


def same_as_parsed(pieces):
    parsed, scanned = record_of(StreamReader(), pieces), record_of(GapReader(), pieces)
    assert scanned == replace(parsed, event_times_s=scanned.event_times_s)
    # A line is whole before the empty one that ends its event.
    for early, late in zip(scanned.event_times_s, parsed.event_times_s, strict=True):
        assert late - 1 <= early <= late


def test_an_answer_is_complete_and_its_connection_usable_at_its_last_byte():
    reader = GapReader()
    reader.feed(PLAIN[:-1], 1.0)
    assert not reader.complete
    reader.feed(PLAIN[-1:], 2.0)
    assert (reader.complete, reader.reusable) == (True, True)


def test_json_with_spaces_is_understood():
    record = record_of(GapReader(), [answer(SPACED_TOKEN, SPACED_USAGE, frames.DONE)])
    assert (record.event_times_s, record.completion_tokens, record.error) == ((1.0,), 1, None)


@pytest.mark.parametrize(
    ("whole", "error"),
    [
        (answer(frames.TOKENS[0]), "the stream ended without [DONE]"),
        (
            answer(frames.TOKENS[0], frames.usage_frame(2), frames.DONE),
            "1 chunks with a token, 2 tokens by its usage",
        ),
        (answer(b'data: {"error": {}}\n\n'), "error frame"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy", "status 503: busy"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(whole, error):
    record = record_of(GapReader(), [whole])
    assert record.error is not None
    assert record.error.startswith(error)
