from __future__ import annotations

import pytest

from models.engine import Usage
from serving.egress.providers.provider import ProviderRejected
from tests.serving.egress.calls import KEY, anthropic_at, collect, deltas, request
from tests.serving.egress.wire_format import HELLO, Answer, every, named_sse, streams

WHOLE = named_sse(*HELLO.anthropic())


async def test_anthropic_answers_with_chunks_and_usage() -> None:
    async with anthropic_at(streams(WHOLE)) as (server, provider):
        chunks, usage = await collect(provider)

    assert deltas(chunks) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3 + ["stop"]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r1"}
    assert usage == Usage(7, 2)
    assert server.received[0].target == "/v1/messages"
    assert server.received[0].headers["x-api-key"] == KEY
    assert server.received[0].headers["anthropic-version"] == "2026-10-21"
    assert server.received[0].json() == {
        "model": "there",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "canary-prompt"}]}],
        "stream": True,
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_anthropic_answers_are_the_same_in_pieces_of_any_size(size: int) -> None:
    body = named_sse(*Answer(("Grüße", " 你好", " 🙂")).anthropic())
    async with anthropic_at(streams(body, cuts=every(size, body))) as (_, provider):
        chunks, usage = await collect(provider)

    assert deltas(chunks) == "Grüße 你好 🙂"
    assert usage == Usage(7, 2)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
async def test_anthropic_answers_may_have_any_line_ends(line_end: bytes) -> None:
    async with anthropic_at(streams(WHOLE.replace(b"\n", line_end))) as (_, provider):
        chunks, _ = await collect(provider)

    assert deltas(chunks) == "Hello there"


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"prompt": "canary"}, "completion", "completions"),
        ({"messages": [{"role": "user", "content": "canary"}], "n": 2}, "chat", "n"),
    ],
)
async def test_anthropic_refuses_what_it_does_not_have_before_anything_leaves(
    body: dict[str, object], kind: str, code: str
) -> None:
    async with anthropic_at(streams(WHOLE)) as (server, provider):
        with pytest.raises(ProviderRejected) as caught:
            await collect(provider, request(body, kind=kind))
        assert server.connections == 0

    assert caught.value.code == code
