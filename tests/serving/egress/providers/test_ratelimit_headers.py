from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.providers.provider import ProviderHeadroom
from serving.egress.providers.ratelimit_headers import LONGEST_S, headroom, seconds

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", 20.0),
        ("0.5", 0.5),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("12ms", 0.012),
        ("1d", 86400.0),
        ("2026-11-25T12:00:30Z", 30.0),
        ("Wed, 25 Nov 2026 12:01:00 GMT", 60.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        (str(NOW.timestamp() + 5), 5.0),
        ("99999999", LONGEST_S),
        ("", None),
        ("-5", None),
        ("nan", None),
        ("1e9", None),
        ("soon", None),
    ],
)
def test_seconds_reads_every_form_that_providers_use(text: str, expected: float | None) -> None:
    assert seconds(text, NOW) == (expected if expected is None else pytest.approx(expected))


@given(st.text(max_size=40))
def test_seconds_takes_any_text(text: str) -> None:
    value = seconds(text, NOW)

    assert value is None or 0 <= value <= LONGEST_S


def test_headroom_reads_what_openai_tells() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "150",
        "x-ratelimit-reset-tokens": "6m0s",
    }

    told = headroom(headers, lambda: NOW)

    assert told == ProviderHeadroom(0, 2.0, 150, 360.0, None)
    assert told.wait_s == 2.0


def test_headroom_takes_the_scarcest_kind_of_tokens_from_anthropic() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "9",
        "anthropic-ratelimit-requests-reset": "2026-11-25T12:00:10Z",
        "anthropic-ratelimit-tokens-remaining": "1000",
        "anthropic-ratelimit-tokens-reset": "2026-11-25T12:00:20Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-25T12:00:40Z",
    }

    told = headroom(headers, lambda: NOW)

    assert told == ProviderHeadroom(9, 10.0, 0, 40.0, None)
    assert told.wait_s == 40.0


def test_headroom_prefers_milliseconds_and_what_is_asked() -> None:
    headers = {
        "retry-after-ms": "1500",
        "retry-after": "7",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60s",
    }

    assert headroom(headers, lambda: NOW).wait_s == 1.5


def test_headroom_without_headers_tells_nothing() -> None:
    assert headroom({}, lambda: NOW) == ProviderHeadroom()
    assert ProviderHeadroom().wait_s is None
