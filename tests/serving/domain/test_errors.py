"""The table that maps errors to OpenAI's envelope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

import serving.access.errors  # noqa: F401  Any further error of the tree would be defined there.
from models.engine import EngineError, RequestRejected
from serving.domain.errors import (
    OUTCOMES,
    AccessError,
    AdmissionError,
    DeadlineExceeded,
    InvalidRequest,
    RingfenceError,
    ServerStopping,
    Unexpected,
    UnknownModel,
    Unsupported,
    envelope,
    outcome,
)
from serving.gateway.streaming import error_response

TYPES = {
    *("invalid_request_error", "authentication_error", "permission_error", "server_error"),
    *("rate_limit_error", "insufficient_quota"),
}


def descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


TOLD = [
    kind for base in (RingfenceError, EngineError) for kind in descendants(base)
    if kind not in (AccessError, AdmissionError)  # Only its kinds are raised.
]  # fmt: skip


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row(kind: type[Exception]) -> None:
    assert any(base in OUTCOMES for base in kind.__mro__)


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_every_row_is_told_as_openai_tells_errors(kind: type[Exception]) -> None:
    row = OUTCOMES[kind]
    assert 400 <= row.status < 600
    assert row.type in TYPES
    assert (row.status >= 500) == (row.type == "server_error")
    assert (row.status in (429, 503)) == (row.retry_after_s is not None)


def test_row_of_the_most_specific_class_counts() -> None:
    assert outcome(InvalidRequest("No.")).code is None
    assert outcome(Unsupported("No.")).code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("error", "param", "code"),
    [
        (InvalidRequest("No.", param="top_p"), "top_p", None),
        (RequestRejected("No."), None, None),
        (UnknownModel("m"), "model", "model_not_found"),
        (Unexpected(), None, "internal_error"),
    ],
)
def test_envelope_has_four_keys_with_strings_or_nulls(
    error: Any, param: str | None, code: str | None
) -> None:
    told = orjson.loads(envelope(error))
    assert told == {
        "error": {
            "message": error.message, "type": outcome(error).type, "param": param, "code": code
        }
    }  # fmt: skip


def test_long_model_name_is_cut_in_its_error() -> None:
    assert len(UnknownModel("m" * 10_000).message) < 250


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_response_tells_when_to_come_back_and_how_to_authenticate(kind: type[Exception]) -> None:
    error = kind() if kind in (DeadlineExceeded, ServerStopping, Unexpected) else kind("m")
    response = error_response(error)  # type: ignore[arg-type]
    row = OUTCOMES[kind]
    assert response.status_code == row.status
    waits = None if row.retry_after_s is None else str(row.retry_after_s)
    assert response.headers.get("retry-after") == waits
    assert ("www-authenticate" in response.headers) == (row.status == 401)
    assert (response.headers.get("connection") == "close") == (row.status in (408, 413))
