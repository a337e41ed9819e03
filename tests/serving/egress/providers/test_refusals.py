from __future__ import annotations

from typing import Any

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
from serving.egress.providers.refusals import broke_off, refused
from tests.serving.egress.wire_format import anthropic_error, openai_error


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, openai_error("invalid_request_error"), ProviderRejected, "invalid_request_error"),
        (401, openai_error("invalid_api_key"), ProviderDenied, "invalid_api_key"),
        (402, anthropic_error("billing_error"), ProviderDenied, "billing_error"),
        (403, None, ProviderDenied, "status_403"),
        (404, openai_error("model_not_found"), ProviderRejected, "model_not_found"),
        (408, None, ProviderUnavailable, "status_408"),
        (413, anthropic_error("request_too_large"), ProviderRejected, "request_too_large"),
        (422, "text", ProviderRejected, "status_422"),
        (429, openai_error("rate_limit_exceeded"), ProviderRateLimited, "rate_limit_exceeded"),
        (429, openai_error("insufficient_quota"), ProviderDenied, "insufficient_quota"),
        (500, None, ProviderUnavailable, "status_500"),
        (503, None, ProviderOverloaded, "status_503"),
        (529, anthropic_error("overloaded_error"), ProviderOverloaded, "overloaded_error"),
    ],
)
def test_refused_tells_the_kind_of_each_status(
    status: int, body: Any, expected: type[ProviderError], code: str
) -> None:
    error = refused(status, {}, body)

    assert type(error) is expected
    assert error.code == code


@pytest.mark.parametrize(
    "body",
    [
        openai_error("context_length_exceeded"),
        openai_error("x", "This model's maximum context length is 8192 tokens."),
        anthropic_error("invalid_request_error", "prompt is too long: 210000 tokens > 200000"),
    ],
)
def test_refused_knows_a_request_that_is_too_long(body: Any) -> None:
    error = refused(400, {}, body)

    assert isinstance(error, ProviderRejected)
    assert error.context_length
    assert not error.retryable


def test_refused_keeps_how_long_to_wait() -> None:
    assert refused(429, {"retry-after": "3"}, None).retry_after_s == 3.0
    assert refused(529, {}, None).retry_after_s is None


@pytest.mark.parametrize("code", ["A canary prompt", "x" * 41, "canary-prompt", 5, None, ["a"]])
def test_refused_keeps_no_text_of_the_provider(code: Any) -> None:
    body = {"error": {"message": "canary prompt", "type": code, "code": code}}
    error = refused(400, {}, body)

    assert error.code == "status_400"
    assert "canary" not in f"{error!r}{error}{vars(error)}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (anthropic_error("overloaded_error"), ProviderOverloaded),
        (anthropic_error("rate_limit_error"), ProviderRateLimited),
        (openai_error("server_error"), ProviderBroken),
        ("text", ProviderBroken),
    ],
)
def test_broke_off_tells_overload_from_a_broken_answer(
    body: Any, expected: type[ProviderError]
) -> None:
    assert type(broke_off(body)) is expected
