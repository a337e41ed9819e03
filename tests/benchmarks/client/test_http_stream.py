from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client.http_stream import (
    MAX_HEAD_BYTES,
    EventParser,
    MalformedResponseError,
    ResponseParser,
)

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cuts(length):
    return st.lists(st.integers(0, length), max_size=40).map(sorted)


@st.composite
def split(draw, streams):
    """Draw a byte stream and a way of cutting it into pieces, including empty ones and single
    bytes."""
    stream = draw(streams)
    if draw(st.booleans()):
        return stream, [stream[i : i + 1] for i in range(len(stream))]
    bounds = [0, *draw(cuts(len(stream))), len(stream)]
    return stream, [stream[begin:end] for begin, end in pairwise(bounds)]


def chunked(body, sizes, extension, trailer):
    chunks, rest = [], body
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        if piece:
            chunks.append(f"{len(piece):x}".encode() + extension + b"\r\n" + piece + b"\r\n")
    if rest:
        chunks.append(f"{len(rest):X}".encode() + b"\r\n" + rest + b"\r\n")
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


@st.composite
def responses(draw, bodies):
    """Draw a response in one of the three framings, possibly after an interim one."""
    body = draw(bodies)
    head = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"])) + b"HTTP/1.1 200 OK\r\n"
    framing = draw(st.sampled_from(["chunked", "length", "close"]))
    if framing == "chunked":
        extension = draw(st.sampled_from([b"", b";name=value", b" ;x"]))
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
        sizes = draw(st.lists(st.integers(1, 30), max_size=20))
        return (
            head + b"transfer-encoding: chunked\r\n\r\n" + chunked(body, sizes, extension, trailer)
        )
    if framing == "length":
        return head + f"content-length: {len(body)}\r\n\r\n".encode() + body
    return head + b"\r\n" + body


event_streams = st.lists(
    st.sampled_from(
        [b"data: {}", b"data:x", b"data", b"event: a", b": ping", b"id: 1", b"\n", b"\r", b"\r\n"]
    ),
    max_size=40,
).map(b"".join)


def parse_response(pieces):
    parser, body = ResponseParser(), b""
    for piece in pieces:
        body += parser.feed(piece)
    framed = parser.complete
    parser.close()
    return parser.status, body, framed


def parse_events(pieces):
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(split(responses(st.binary(max_size=300))))
def test_a_response_is_the_same_however_its_bytes_are_split(case):
    stream, pieces = case
    assert parse_response([stream]) == parse_response(pieces)


@given(st.binary(max_size=300), st.lists(st.integers(1, 30), max_size=20))
def test_a_chunked_body_is_the_body_that_was_chunked(body, sizes):
    stream = CHUNKED_HEAD + chunked(body, sizes, b"", b"")
    assert (200, body, True) == parse_response([stream])


@given(split(event_streams))
def test_events_are_the_same_however_their_bytes_are_split(case):
    stream, pieces = case
    assert parse_events([stream]) == parse_events(pieces)


@given(split(responses(event_streams)))
def test_events_inside_a_response_are_the_same_however_its_bytes_are_split(case):
    stream, pieces = case
    whole_response, whole_events = ResponseParser(), EventParser()
    response, events = ResponseParser(), EventParser()
    expected = whole_events.feed(whole_response.feed(stream))
    assert expected == [event for piece in pieces for event in events.feed(response.feed(piece))]


@given(st.lists(st.text(alphabet="abc {}:\u00e9", min_size=1), max_size=10))
def test_events_are_those_that_were_written(texts):
    stream = "".join(f": keep-alive\n\ndata: {text}\n\n" for text in texts).encode()
    assert [text.encode() for text in texts] == parse_events([stream])


def test_an_interim_response_is_skipped():
    stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    assert parse_response([stream]) == (204, b"", True)


def test_data_lines_of_one_event_are_joined_by_line_feeds():
    assert parse_events([b"data: a\ndata: b\n\n"]) == [b"a\nb"]


def test_an_event_that_the_stream_ends_in_is_dropped():
    assert parse_events([b"data: a\n\ndata: b\n"]) == [b"a"]


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        CHUNKED_HEAD + b"0x1\r\n",
        CHUNKED_HEAD + b"-1\r\n",
        CHUNKED_HEAD + b"\r\n",
        CHUNKED_HEAD + b"1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        b"x" * (MAX_HEAD_BYTES + 4),
        CHUNKED_HEAD + b"1" * (MAX_HEAD_BYTES + 2),
    ],
)
def test_a_malformed_response_is_refused(stream):
    with pytest.raises(MalformedResponseError):
        ResponseParser().feed(stream)


@pytest.mark.parametrize(
    "stream", [b"", CHUNKED_HEAD, CHUNKED_HEAD + b"2\r\na", CHUNKED_HEAD + b"1\r\na\r\n0\r\n"]
)
def test_a_connection_closed_inside_a_response_is_refused(stream):
    parser = ResponseParser()
    parser.feed(stream)
    with pytest.raises(MalformedResponseError):
        parser.close()


@pytest.mark.parametrize(
    ("head", "keeps"),
    [(b"content-length: 0", True), (b"content-length: 0\r\nConnection: close", False)],
)
def test_a_connection_is_kept_unless_the_server_closes_it(head, keeps):
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    assert keeps == parser.keep_alive
