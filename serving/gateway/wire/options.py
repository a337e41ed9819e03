"""Options of a request beside its content: priority, privacy class, deadline, failure policy.

And what becomes of an answer that breaks off.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import cast, get_args

from starlette.requests import Request

from serving.domain.calls import OnFailure, Priority, RequestOptions
from serving.domain.errors import InvalidRequest
from serving.domain.principal import Principal
from serving.domain.privacy_class import CLASSES, PrivacyClass, strictest
from serving.gateway.wire.own_fields import PRIVACY_FIELD, refuse_names

PRIVACY = "x-ringfence-privacy"
ON_FAILURE = "x-ringfence-on-failure"
TIMEOUT = "x-request-timeout-s"
PRIORITY = "x-ringfence-priority"


def options(request: Request) -> RequestOptions:
    """The options of a request; without headers it is interactive and has no deadline of its own.

    Raises:
        InvalidRequest: a header cannot be meant.
    """
    return RequestOptions(
        _priority(_single(request, PRIORITY)), _timeout_s(_single(request, TIMEOUT))
    )


def privacy(request: Request, principal: Principal, asked: PrivacyClass | None) -> PrivacyClass:
    """The class of a request: the strictest of its key, its body (`asked`) and its headers.

    Raises:
        InvalidRequest: as `header_privacy` does.
    """
    return strictest(principal.privacy, asked, header_privacy(request))


def header_privacy(request: Request) -> PrivacyClass | None:
    """The strictest class that the headers ask for; None if they ask for none.

    Raises:
        InvalidRequest: a header names no class, or what only looks like it asks for one.
    """
    _refuse_look_alikes(request)
    said = _listed(request, PRIVACY, CLASSES)
    return strictest(*cast("list[PrivacyClass]", said)) if said else None


def on_failure(request: Request, asked: OnFailure | None) -> OnFailure:
    """Return the failure policy of a request: from its body (`asked`), or else its headers.

    Raises:
        InvalidRequest: a header cannot be meant.
    """
    said = _listed(request, ON_FAILURE, get_args(OnFailure))
    return asked or ("continue" if set(said) == {"continue"} else "fail")


def _listed(request: Request, name: str, known: Sequence[str]) -> list[str]:
    """The values of a header, in one line with commas or in several (RFC 9110, 5.3)."""
    lines = request.headers.getlist(name)
    values = [value.strip(" \t") for line in lines for value in line.split(",")]
    if any(value not in known for value in values):
        raise InvalidRequest(f"The header {name} is one of {', '.join(known)}.", param=name)
    return values


def _single(request: Request, name: str) -> str | None:
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"The header {name} stands in the request twice.", param=name)
    return values[0] if values else None


def _refuse_look_alikes(request: Request) -> None:
    """Refuse headers and parameters that ask for a class under another name."""
    for name in request.headers:
        if name not in _HEADERS and (_OURS in name or PRIVACY_FIELD in name):
            _refuse_header(name)
    if request.scope.get("query_string"):
        refuse_names(request.query_params, frozenset())


def _refuse_header(name: str) -> None:
    word = "".join(filter(str.isalnum, name)).removeprefix("x")
    close = get_close_matches(word, _HEADER_WORDS, n=1, cutoff=0.85)
    if close or word in _BARE or (_OURS in word and PRIVACY_FIELD in word):
        meant = _HEADER_WORDS[close[0]] if close else PRIVACY
        raise InvalidRequest(f"There is no header {name!r}; the header is {meant}.", param=name)


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


_OURS = "ringfence"
_HEADERS = frozenset({PRIVACY, PRIORITY, ON_FAILURE})
_HEADER_WORDS = {"".join(filter(str.isalnum, one)).removeprefix("x"): one for one in _HEADERS}
_BARE = (PRIVACY_FIELD, "privacyclass", "privacylevel")
