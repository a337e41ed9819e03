"""Turns errors of provider clients into `ProviderError`. No text of a provider gets through.

Its messages may repeat the prompt. Identifiers are kept, if they look like one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serving.egress.providers.provider import (
    ProviderBroken,
    ProviderDenied,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from serving.egress.providers.ratelimit_headers import headroom

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TOO_LONG = re.compile(
    r"context[ _](?:length|window)|prompt is too long|too many (?:input )?tokens|input is too long",
    re.IGNORECASE,
)
_NO_MONEY = ("insufficient_quota", "billing_error", "billing_hard_limit_reached")
_CODES_OF_LIMITS = ("rate_limit_error", "rate_limit_exceeded", "tokens", "requests")
_CODES_OF_OVERLOAD = (
    "overloaded_error",
    "overloaded",
    "server_overloaded",
    "engine_overloaded",
    "slow_down",
)


def refused(status: int, headers: Mapping[str, str], body: object) -> ProviderError:
    """The error that a status of 400 or more stands for.

    Args:
        status: the HTTP status.
        headers: names in lower case.
        body: the parsed body, or its `error` member, or a text.
    """
    code = _code(body) or f"status_{status}"
    wait_s = headroom(headers).wait_s
    if status in (401, 402, 403) or code in _NO_MONEY:
        return ProviderDenied("the provider does not take our key or account", code=code)
    if status == 429:
        return ProviderRateLimited(
            "the provider is at a limit of ours", code=code, retry_after_s=wait_s
        )
    if status in (503, 529):
        return ProviderOverloaded("the provider is overloaded", code=code, retry_after_s=wait_s)
    if status >= 500 or status in (408, 409, 425):
        return ProviderUnavailable("the provider failed", code=code, retry_after_s=wait_s)
    return ProviderRejected(
        "the provider does not take the request", code=code, context_length=_is_too_long(code, body)
    )


def broke_off(body: object) -> ProviderError:
    """The error that an `error` event in a begun answer stands for."""
    code = _code(body) or "error_event"
    if code in _CODES_OF_LIMITS:
        return ProviderRateLimited("the provider is at a limit of ours", code=code)
    if code in _CODES_OF_OVERLOAD:
        return ProviderOverloaded("the provider is overloaded", code=code)
    return ProviderBroken("the provider broke the answer off", code=code)


def _error(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, dict) else body


def _code(body: object) -> str | None:
    """The most exact identifier of the cause, if there is one."""
    error = _error(body)
    for name in ("code", "type"):
        value = error.get(name)
        if isinstance(value, str) and _IDENTIFIER.fullmatch(value):
            return value
    return None


def _is_too_long(code: str, body: object) -> bool:
    message = _error(body).get("message")
    return code == "context_length_exceeded" or (
        isinstance(message, str) and _TOO_LONG.search(message[:2000]) is not None
    )
