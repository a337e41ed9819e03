"""Headers about limits and routes, as OpenAI's clients read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.domain.quota import Headroom, Quota
from serving.domain.route import Origin
from serving.gateway.headers import answer_headers, duration, quota_headers

_DURATION = re.compile(r"(?:(?P<ms>\d+)ms|(?:(?P<m>[1-9]\d*)m)?(?P<s>\d+)s)")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.999, "999ms"),
        (1, "1s"),
        (1.001, "2s"),
        (6, "6s"),
        (59, "59s"),
        (59.5, "1m0s"),
        (60, "1m0s"),
        (90, "1m30s"),
        (7325, "122m5s"),
    ],
)
def test_duration_is_written_as_openai_writes_it(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@given(st.floats(0, 100_000))
def test_duration_is_never_too_short_and_less_than_a_second_too_long(seconds: float) -> None:
    found = _DURATION.fullmatch(duration(seconds))
    assert found is not None
    told = int(found["ms"] or 0) / 1000 + 60 * int(found["m"] or 0) + int(found["s"] or 0)
    assert seconds - 1e-9 <= told < seconds + 1


def test_quota_is_told_in_openai_s_headers() -> None:
    quota = Quota(requests=Headroom(60, 59, 1.0), tokens=Headroom(150_000, 149_984, 0.006))
    assert quota_headers(quota) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-reset-tokens": "6ms",
    }


def test_limit_that_there_is_not_is_not_told() -> None:
    assert quota_headers(Quota()) == {}
    assert {name.rpartition("-")[2] for name in quota_headers(Quota(Headroom(1, 0, 60)))} == {
        "requests"
    }
    assert {name.rpartition("-")[2] for name in quota_headers(Quota(None, Headroom(1, 0, 60)))} == {
        "tokens"
    }


def test_limit_that_is_used_up_is_told() -> None:
    headers = quota_headers(Quota(Headroom(0, 0, 0.0)))
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "0ms"


def test_receipt_is_told_where_there_is_one() -> None:
    told = dict(answer_headers(Origin("open", "overflow:other", "a.b.c"), Quota()))
    assert told == {
        b"x-ringfence-route": b"overflow:other",
        b"x-ringfence-privacy": b"open",
        b"x-ringfence-receipt": b"a.b.c",
    }


def test_headers_of_asgi_are_bytes_with_names_in_small_letters() -> None:
    raw = answer_headers(Origin("scrubbed"), Quota(Headroom(60, 59, 1.0)))
    assert (b"x-ratelimit-limit-requests", b"60") in raw
    assert (b"x-ringfence-route", b"local") in raw
    assert (b"x-ringfence-privacy", b"scrubbed") in raw
    assert all(name == name.lower() and isinstance(value, bytes) for name, value in raw)
