"""Headers by which a client says how urgent a request is, and when it stops waiting."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from serving.access.fair_queue import Priority
from serving.attempts import Terms
from serving.errors import InvalidRequest

TIMEOUT = "x-request-timeout-s"
PRIORITY = "x-ringfence-priority"


def terms(request: Request) -> Terms:
    """The terms of a request; without headers it is interactive and has no deadline of its own.

    Raises:
        InvalidRequest: a header cannot be meant.
    """
    return Terms(_priority(request.headers.get(PRIORITY)), _timeout_s(request.headers.get(TIMEOUT)))


def _priority(value: str | None) -> Priority:
    if value is None:
        return "interactive"
    if value not in ("interactive", "background"):
        raise InvalidRequest(f"The header {PRIORITY} is interactive or background.", param=PRIORITY)
    return cast("Priority", value)


def _timeout_s(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest(f"The header {TIMEOUT} is a number of seconds above 0.", param=TIMEOUT)
    return seconds
