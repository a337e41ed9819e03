"""Headers for a request's priority and time-out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from serving.domain.calls import RequestOptions
from serving.domain.errors import InvalidRequest
from serving.domain.principal import Principal
from serving.domain.privacy_class import PrivacyClass
from serving.gateway.wire.options import (
    ON_FAILURE,
    PRIORITY,
    PRIVACY,
    TIMEOUT,
    on_failure,
    options,
    privacy,
)


def told(**headers: str) -> RequestOptions:
    """Parse the headers of a request, with `_` for `-` in their names."""
    raw = [(n.replace("_", "-").encode(), v.encode("latin-1")) for n, v in headers.items()]
    return options(Request({"type": "http", "headers": raw}))


def test_request_without_headers_is_interactive_and_waits() -> None:
    assert told() == RequestOptions(priority="interactive", timeout_s=None)


@pytest.mark.parametrize("priority", ["interactive", "background"])
def test_priority_is_as_it_was_asked_for(priority: str) -> None:
    assert told(x_ringfence_priority=priority).priority == priority


@pytest.mark.parametrize("value", ["", "urgent", "Background", "interactive,background", " "])
def test_priority_that_does_not_exist_is_refused_by_the_name_of_its_header(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        told(x_ringfence_priority=value)
    assert refused.value.param == PRIORITY


@given(st.floats(0, 1e9, exclude_min=True))
def test_time_is_any_number_of_seconds(seconds: float) -> None:
    assert told(x_request_timeout_s=repr(seconds)).timeout_s == seconds


@pytest.mark.parametrize(
    "value", ["", "0", "-0", "-1", "nan", "inf", "-inf", "1e999", "1e-999", "soon", "5s", "1,5"]
)
def test_time_that_cannot_be_meant_is_refused_by_the_name_of_its_header(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        told(x_request_timeout_s=value)
    assert refused.value.param == TIMEOUT


@given(st.text(st.characters(max_codepoint=255), max_size=12))
def test_any_value_is_a_time_ahead_or_refused(value: str) -> None:
    try:
        seconds = told(x_request_timeout_s=value).timeout_s
    except InvalidRequest:
        return
    assert seconds is not None
    assert 0 < seconds < float("inf")


def classed(key: PrivacyClass, body: PrivacyClass | None = None, **headers: str) -> PrivacyClass:
    raw = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    principal = Principal("acme", "k1", "ci", "inference", None, key)
    return privacy(Request({"type": "http", "headers": raw}), principal, body)


def test_class_is_the_strictest_of_key_body_and_header() -> None:
    assert classed("open") == "open"
    assert classed("open", "scrubbed") == "scrubbed"
    assert classed("open", x_ringfence_privacy="scrubbed") == "scrubbed"
    assert classed("open", "scrubbed", x_ringfence_privacy="local_only") == "local_only"
    assert classed("local_only", "open", x_ringfence_privacy="open") == "local_only"


def test_class_that_does_not_exist_is_refused_by_the_name_of_its_header() -> None:
    with pytest.raises(InvalidRequest) as refused:
        classed("open", x_ringfence_privacy="secret")
    assert refused.value.param == PRIVACY


@pytest.mark.parametrize("name", [PRIORITY, TIMEOUT])
def test_header_whose_values_have_no_order_stands_once(name: str) -> None:
    value = {PRIORITY: b"background", TIMEOUT: b"5"}[name]
    with pytest.raises(InvalidRequest) as refused:
        options(Request({"type": "http", "headers": [(name.encode(), value)] * 2}))
    assert refused.value.param == name


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b"continue"], "continue"),
        ([b"continue", b"fail"], "fail"),
        ([b"fail", b"continue"], "fail"),
        ([b"continue, fail"], "fail"),
        ([b"continue,continue"], "continue"),
        ([], "fail"),
    ],
)
def test_repeated_wish_to_go_on_is_one_not_to(lines: list[bytes], told: str) -> None:
    headers = [(ON_FAILURE.encode(), line) for line in lines]
    assert on_failure(Request({"type": "http", "headers": headers}), None) == told
