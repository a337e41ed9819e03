import http.client
import socket

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.client.load_client import Target, closed_loop, encode_chat
from benchmarks.client.records import WholeReader
from benchmarks.gateways.arms import token_stream
from benchmarks.running.arms import API_KEY, HOST
from benchmarks.running.ports import free_port
from benchmarks.running.processes import running
from benchmarks.servers.steps import Pace
from benchmarks.servers.token_stream import take_request


@pytest.fixture(scope="module")
def paced(tmp_path_factory):
    """Run the server at 100 steps per second."""
    arm = token_stream(Pace(step_ms=10), port=free_port(), name="paced")
    with running(arm, log_dir=tmp_path_factory.mktemp("logs")):
        yield Target(host=HOST, port=arm.port, model=arm.model, api_key=API_KEY)


def asked(target, body, **headers):
    connection = http.client.HTTPConnection(HOST, target.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse().read()
    connection.close()
    return answer


async def test_a_stream_is_paced_and_counts_its_tokens(paced):
    chats = [encode_chat(paced, "p", max_tokens=20)] * 3
    records = await closed_loop(paced, chats, streams=3, deadline_s=60)
    assert [(r.error, r.completion_tokens, len(r.event_times_s)) for r in records] == [
        (None, 20, 20)
    ] * 3
    assert all(r.e2e_s > 0.15 for r in records)


async def test_an_unstreamed_answer_is_one_object_after_as_many_steps(paced):
    chats = [encode_chat(paced, "p", max_tokens=10, stream=False)] * 2
    records = await closed_loop(paced, chats, streams=1, deadline_s=60, reader=WholeReader)
    assert [(r.error, r.completion_tokens) for r in records] == [(None, 10)] * 2
    assert all(r.e2e_s > 0.08 for r in records)


def test_json_with_spaces_is_understood(paced):
    answer = orjson.loads(asked(paced, b'{ "max_tokens" : 3, "stream" : false }'))
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_chunked_body_is_understood(paced):
    answer = asked(paced, iter([b'{"max_', b'tokens":2}']))
    assert orjson.loads(answer)["usage"]["completion_tokens"] == 2


def test_usage_is_sent_to_who_asks_for_it(paced):
    assert b'"usage"' not in asked(paced, b'{"max_tokens":2,"stream":true}')


def test_the_model_is_listed_and_health_is_good(paced):
    connection = http.client.HTTPConnection(HOST, paced.port, timeout=60)
    connection.request("GET", "/v1/models")
    assert orjson.loads(connection.getresponse().read())["data"][0]["id"] == "simulated"
    connection.request("GET", "/health")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"{}")
    connection.close()


def test_a_client_that_goes_away_ends_its_stream_alone(paced):
    with socket.create_connection((HOST, paced.port), timeout=60) as connection:
        connection.sendall(encode_chat(paced, "p", max_tokens=1_000))
        connection.recv(100)
    assert asked(paced, b'{"max_tokens":1}')


CHUNKED = (
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
)
SIZED = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde"


@pytest.mark.parametrize("request_bytes", [SIZED, CHUNKED])
@given(data=st.data())
def test_a_request_is_taken_once_it_is_whole_and_the_next_is_left(request_bytes, data):
    cut = data.draw(st.integers(0, len(request_bytes) - 1))
    buffer = bytearray(request_bytes[:cut])
    assert take_request(buffer) is None
    buffer += request_bytes[cut:] + b"GET "
    taken = take_request(buffer)
    assert taken is not None
    assert (taken[1], bytes(buffer)) == (b"abcde", b"GET ")
