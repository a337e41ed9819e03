import orjson
import pytest

from benchmarks.client.http_stream import MalformedResponseError
from benchmarks.client.records import RequestRecord, StreamReader

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def event(**fields):
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def delta(**fields):
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


USAGE = event(choices=[], usage={"completion_tokens": 2})
DONE = b"data: [DONE]\n\n"


def read(*arrivals):
    """Return the record of an answer whose pieces arrive at 1.0, 2.0, ... s after a start at 0."""
    reader = StreamReader()
    for second, piece in enumerate(arrivals, start=1):
        reader.feed(piece, float(second))
    reader.close()
    return reader.record(start_s=0.0, end_s=float(len(arrivals)))


def test_an_answer_has_a_time_for_each_event_that_bears_a_token():
    record = read(HEAD, delta(role="assistant", content=""), delta(content="a"), USAGE + DONE)
    assert record == RequestRecord(
        start_s=0.0, event_times_s=(3.0,), end_s=4.0, status=200, completion_tokens=2, error=None
    )


@pytest.mark.parametrize(
    "piece",
    [
        delta(content="a"),
        delta(reasoning_content="a"),
        delta(tool_calls=[{"index": 0}]),
        event(choices=[{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "a"}}]),
        event(choices=[{"index": 0, "text": "a"}]),
    ],
)
def test_any_nonempty_delta_bears_a_token(piece):
    assert read(HEAD, piece, USAGE + DONE).event_times_s == (2.0,)


def test_events_that_arrive_together_have_one_time():
    record = read(HEAD, delta(content="a") + delta(content="b"), USAGE + DONE)
    assert record.event_times_s == (2.0, 2.0)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([USAGE], "the stream ended without [DONE]"),
        ([DONE], "no usage event, or no tokens in it"),
        ([event(error={"message": "out"}), USAGE, DONE], "error frame: {'message': 'out'}"),
    ],
)
def test_an_incomplete_answer_is_an_error(pieces, error):
    assert error == read(HEAD, *pieces).error


def test_a_refusal_is_an_error_with_status_and_body():
    record = read(b"HTTP/1.1 401 No\r\ncontent-length: 8\r\n\r\n", b"bad key.")
    assert (record.status, record.error) == (401, "status 401: bad key.")


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"text"'])
def test_an_event_that_is_no_json_object_is_refused(data):
    with pytest.raises(MalformedResponseError):
        read(HEAD, b"data: " + data + b"\n\n")


def test_an_error_of_null_is_none():
    assert read(HEAD, event(choices=[], error=None), USAGE + DONE).error is None


def test_latencies_are_those_of_vllm():
    record = RequestRecord(
        start_s=10.0,
        event_times_s=(12.0, 13.0, 15.0),
        end_s=16.0,
        status=200,
        completion_tokens=5,
        error=None,
    )
    # TPOT is over tokens, ITL over events: two tokens may share an event.
    assert (
        record.e2e_s,
        record.ttft_s,
        record.itl_s,
        record.tpot_s,
    ) == (6.0, 2.0, (1.0, 2.0), 1.0)


def test_a_record_without_tokens_has_no_token_latency():
    record = read(b"HTTP/1.1 500 No\r\n\r\n")
    assert (record.ttft_s, record.tpot_s, record.itl_s) == (None, None, ())
