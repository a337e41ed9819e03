"""Faults of real servers, handled by both clients over real sockets."""

from __future__ import annotations

import gzip
import logging

import pytest

from serving.egress.providers.provider import (
    ProviderBroken,
    ProviderDenied,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from tests.serving.egress.calls import (
    KEY,
    Border,
    collect,
    openai_at,
    request,
)
from tests.serving.egress.dialects import OPENAI, Dialect, dialect, failed
from tests.serving.egress.standin import Behaviour, Endless, StandIn, Step
from tests.serving.egress.wire_format import (
    LAST_CHUNK,
    answers,
    chunked,
    head,
    redirects,
    refuses,
    streams,
)

__all__ = ["dialect"]


async def test_a_refusal_has_its_kind_and_its_wait(dialect: Dialect) -> None:
    told = dialect.error("rate_limit_error", "you wrote: canary-prompt")

    error = await failed(dialect, refuses(429, told, retry_after="7"))

    assert type(error) is ProviderRateLimited
    assert error.code == "rate_limit_error"
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRejected),
        (401, ProviderDenied),
        (403, ProviderDenied),
        (404, ProviderRejected),
        (408, ProviderUnavailable),
        (413, ProviderRejected),
        (422, ProviderRejected),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (502, ProviderUnavailable),
        (503, ProviderOverloaded),
        (529, ProviderOverloaded),
    ],
)
async def test_a_refusal_without_details_is_told_by_its_status(
    dialect: Dialect, status: int, kind: type[ProviderError]
) -> None:
    error = await failed(dialect, refuses(status, "canary"))

    assert type(error) is kind
    assert error.retry_after_s is None


async def test_a_refusal_of_a_long_prompt_says_so(dialect: Dialect) -> None:
    told = dialect.error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")

    error = await failed(dialect, refuses(400, told))

    assert isinstance(error, ProviderRejected)
    assert error.context_length


async def test_a_refusal_of_any_size_is_read_in_part(dialect: Dialect) -> None:
    steps: tuple[Step, ...] = (
        head(500, content_type="text/html", transfer_encoding="chunked"),
        Endless(chunked(b"canary" * 1000)),
    )

    error = await failed(dialect, Behaviour(steps))

    assert error.code == "status_500"


@pytest.mark.parametrize("then", ["reset", b""], ids=["reset", "closed"])
async def test_a_connection_lost_in_the_answer_is_a_broken_answer(
    dialect: Dialect, then: Step
) -> None:
    error = await failed(dialect, streams(dialect.begun, then=[0.05, then]))

    assert type(error) is ProviderBroken
    assert error.code == "disconnected"


async def test_a_connection_lost_before_the_answer_is_unavailable(dialect: Dialect) -> None:
    error = await failed(dialect, Behaviour(("reset",)))

    assert type(error) is ProviderUnavailable
    assert error.code == "disconnected"


async def test_an_answer_cut_short_but_properly_ended_is_broken(dialect: Dialect) -> None:
    error = await failed(dialect, streams(dialect.begun))

    assert type(error) is ProviderBroken
    assert error.code == "cut"


async def test_an_answer_cut_short_that_ends_with_its_connection_is_broken(
    dialect: Dialect,
) -> None:
    steps = (head(content_type="text/event-stream", connection="close"), dialect.begun)

    error = await failed(dialect, Behaviour(steps))

    assert type(error) is ProviderBroken
    assert error.code == "cut"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("overloaded_error", ProviderOverloaded), ("api_error", ProviderBroken)],
)
async def test_an_error_in_a_begun_answer_has_its_kind(
    dialect: Dialect, kind: str, expected: type[ProviderError]
) -> None:
    told = dialect.event(dialect.error(kind, "you wrote: canary-prompt"))

    error = await failed(dialect, streams(dialect.begun + told))

    assert type(error) is expected
    assert error.code == kind


@pytest.mark.parametrize(
    "data",
    [b"{canary", b'{"a": "\xff"}', b"[1]", b"5", b"null", b"[" * 100_000],
    ids=["no_json", "no_utf8", "list", "number", "null", "deep"],
)
async def test_a_malformed_event_is_a_broken_answer(dialect: Dialect, data: bytes) -> None:
    event = b"event: content_block_delta\ndata: " + data + b"\n\n"

    error = await failed(dialect, streams(dialect.begun + event))

    assert type(error) is ProviderBroken
    assert error.code == "malformed"


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (answers(b"<html>canary</html>", "text/html"), "content_type"),
        (answers(b'{"error": {"message": "canary"}}', "application/json"), "content_type"),
        (answers(b"", ""), "content_type"),
        (
            answers(gzip.compress(bytes(10_000_000)), "text/event-stream", content_encoding="gzip"),
            "content_encoding",
        ),
        (Behaviour((head(204),)), "wrong_status"),
    ],
    ids=["html", "json", "none", "gzip_bomb", "no_content"],
)
async def test_what_is_no_event_stream_is_not_read(
    dialect: Dialect, behaviour: Behaviour, code: str
) -> None:
    error = await failed(dialect, behaviour)

    assert type(error) is ProviderBroken
    assert error.code == code


@pytest.mark.parametrize("path", ["/elsewhere", "/v1/chat/completions"])
async def test_a_redirect_is_never_followed(dialect: Dialect, path: str) -> None:
    async with StandIn(streams(dialect.whole)) as other:
        error = await failed(dialect, redirects(other.url + path))
        assert other.connections == 0

    assert type(error) is ProviderBroken
    assert error.code == "redirect"


async def test_an_answer_that_fails_before_it_said_anything_shows_nothing(
    dialect: Dialect,
) -> None:
    silent = dialect.begun[: dialect.begun.rindex(b"\n\n", 0, -2) + 2]
    async with dialect.at(streams(silent, then=[0.05, "reset"])) as (_, provider):
        border = Border()
        items = provider.generate(
            request(), gate=border.gate, observe=border.told.append, received=border.receive
        )
        with pytest.raises(ProviderBroken):
            await anext(items)


async def test_nothing_of_prompt_key_or_answer_is_logged(
    dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = [streams(dialect.whole), refuses(400, dialect.error("x", "canary-prompt"))]
    async with dialect.at(*scripts) as (_, provider):
        await collect(provider)
        with pytest.raises(ProviderRejected) as caught:
            await collect(provider)

    text = caplog.text + repr(caught.value) + repr(request())
    assert "canary" not in text
    assert KEY not in text
    assert "Hello" not in text


async def test_what_is_sent_after_the_end_does_not_spoil_an_answer() -> None:
    garbage = chunked(b"data: " + b"x" * 2000 + b"\n\n")
    behaviour = streams(OPENAI.whole, then=[garbage, LAST_CHUNK])
    async with openai_at(behaviour) as (_, provider):
        chunks, _ = await collect(provider)

    assert len(chunks) == 4
