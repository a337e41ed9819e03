"""What a client says of a request beside its content: how urgent, how private, until when.

And what becomes of an answer that breaks off.
"""

from __future__ import annotations

from typing import cast, get_args

from starlette.requests import Request

from serving.access.fair_queue import Priority
from serving.access.principal import Principal
from serving.answering.continuation import OnFailure
from serving.attempts import Terms
from serving.errors import InvalidRequest
from serving.gateway.headers import PRIVACY
from serving.privacy_class import CLASSES, PrivacyClass, strictest

TIMEOUT = "x-request-timeout-s"
PRIORITY = "x-ringfence-priority"
ON_FAILURE = "x-ringfence-on-failure"


def terms(request: Request) -> Terms:
    """The terms of a request; without headers it is interactive and has no deadline of its own.

    Raises:
        InvalidRequest: a header cannot be meant.
    """
    return Terms(_priority(request.headers.get(PRIORITY)), _timeout_s(request.headers.get(TIMEOUT)))


def privacy(request: Request, principal: Principal, asked: PrivacyClass | None) -> PrivacyClass:
    """The class of a request: the strictest of its key, its body (`asked`) and its header.

    Raises:
        InvalidRequest: the header names no class.
    """
    said = request.headers.get(PRIVACY)
    if said is not None and said not in CLASSES:
        raise InvalidRequest(f"The header {PRIVACY} is one of {', '.join(CLASSES)}.", param=PRIVACY)
    return strictest(principal.privacy, asked, said)


def on_failure(request: Request, asked: OnFailure | None) -> OnFailure:
    """What becomes of an answer that breaks off: as its body says (`asked`), else its header.

    Raises:
        InvalidRequest: the header cannot be meant.
    """
    said = request.headers.get(ON_FAILURE)
    if said is not None and said not in get_args(OnFailure):
        known = " or ".join(get_args(OnFailure))
        raise InvalidRequest(f"The header {ON_FAILURE} is {known}.", param=ON_FAILURE)
    return asked or cast("OnFailure", said or "fail")


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
