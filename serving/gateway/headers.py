"""Headers of answers: their origin, and what is left of the caller's limits."""

from __future__ import annotations

import math

from serving.domain.quota import Headroom, Quota
from serving.domain.route import Origin
from serving.gateway.wire.options import PRIVACY

Raw = list[tuple[bytes, bytes]]
"""Headers as ASGI takes them."""

ROUTE = "x-ringfence-route"
RECEIPT = "x-ringfence-receipt"


def answer_headers(origin: Origin, quota: Quota) -> Raw:
    """The headers of every answer that used a model."""
    headers = {ROUTE: origin.route, PRIVACY: origin.privacy}
    if origin.receipt is not None:
        headers[RECEIPT] = origin.receipt
    told = headers | quota_headers(quota)
    return [(name.encode(), value.encode()) for name, value in told.items()]


def quota_headers(quota: Quota) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*`, for the kinds of limits that there are."""
    headers: dict[str, str] = {}
    for kind, headroom in (("requests", quota.requests), ("tokens", quota.tokens)):
        if headroom is not None:
            headers |= _headroom(kind, headroom)
    return headers


def _headroom(kind: str, headroom: Headroom) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(headroom.limit),
        f"x-ratelimit-remaining-{kind}": str(headroom.remaining),
        f"x-ratelimit-reset-{kind}": duration(headroom.reset_s),
    }


def duration(seconds: float) -> str:
    """Format a duration as OpenAI does: `120ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
