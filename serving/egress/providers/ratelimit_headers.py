"""Rate-limit headers of providers: what is left, when it resets, and when to retry."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from serving.egress.providers.provider import ProviderHeadroom

LONGEST_S = 24 * 3600.0
"""Longest wait that is believed: a wrong clock must not close a provider for good."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_UNITS_S = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_COUNT = re.compile(r"\d{1,15}")
_EPOCH = 1e9  # A larger number of seconds is a moment, not a duration.

_REQUESTS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
)
_TOKENS = (
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)


class _Left(NamedTuple):
    left: int
    reset_s: float | None


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def headroom(headers: Mapping[str, str], now: Callable[[], datetime] = utc_now) -> ProviderHeadroom:
    """Read `headers`, whose names are in lower case. Malformed ones are ignored."""
    moment = now()
    requests = _least(headers, _REQUESTS, moment)
    tokens = _least(headers, _TOKENS, moment)
    return ProviderHeadroom(
        requests=requests and requests.left,
        requests_reset_s=requests and requests.reset_s,
        tokens=tokens and tokens.left,
        tokens_reset_s=tokens and tokens.reset_s,
        retry_after_s=_retry_after_s(headers, moment),
    )


def seconds(text: str, now: datetime) -> float | None:
    """Seconds from `now` that a text means, at least 0 and at most `LONGEST_S`.

    A number of seconds, a duration as OpenAI has it (`6m0s`, `12ms`), seconds since 1970, or a
    moment as RFC 3339 or RFC 9110 (5.6.7) write it.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        value = float(text)
        return _bounded(value - now.timestamp() if value > _EPOCH else value)
    if text and (match := _DURATION.fullmatch(text)):
        parts = zip(match.groups(), _UNITS_S, strict=True)
        return _bounded(sum(float(part) * unit for part, unit in parts if part))
    moment = _moment(text)
    return None if moment is None else _bounded((moment - now).total_seconds())


def _moment(text: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
        except ValueError:
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _bounded(value: float) -> float:
    return min(max(value, 0.0), LONGEST_S)


def _retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return _bounded(float(milliseconds) / 1000)
    return seconds(headers.get("retry-after", ""), now)


def _least(
    headers: Mapping[str, str], names: tuple[tuple[str, str], ...], now: datetime
) -> _Left | None:
    told = [
        _Left(int(headers[left]), seconds(headers.get(reset, ""), now))
        for left, reset in names
        if _COUNT.fullmatch(headers.get(left, ""))
    ]
    return min(told, key=lambda one: one.left, default=None)
