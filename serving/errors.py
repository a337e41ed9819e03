"""The error tree of the backend, and the one table from an error to OpenAI's envelope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    RequestRejected,
)


class RingfenceError(Exception):
    """What the backend itself refuses or fails at. The message is shown to the client.

    RingfenceError
    ├── InvalidRequest           the body is not what the endpoint takes
    │   └── Unsupported          well formed, but not offered here
    ├── BodyTooLarge
    ├── BodyTimeout              the body did not arrive in time
    ├── AccessError
    │   ├── MissingKey
    │   ├── InvalidKey           unknown, expired or revoked: which one is not told
    │   ├── NotPermitted         a good key, but not for this
    │   └── StoreUnavailable     the key cannot be checked now, so it is not accepted
    ├── UnknownModel
    ├── UnknownUrl
    ├── WrongMethod
    └── Unexpected               a bug; the cause is in the log
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(RingfenceError):
    """The body is not what the endpoint takes; `param` is the field."""


class Unsupported(InvalidRequest):
    """Well formed, but not offered here."""


class BodyTooLarge(RingfenceError):
    """The body has more bytes than the configuration allows."""


class BodyTimeout(RingfenceError):
    """The body did not arrive in time."""


class AccessError(RingfenceError):
    """The caller may not do this, or that cannot be checked."""


class MissingKey(AccessError):
    """No API key was sent."""


class InvalidKey(AccessError):
    """The key is unknown, expired or revoked."""


class NotPermitted(AccessError):
    """The key is good, but not for this."""


class StoreUnavailable(AccessError):
    """The key store cannot be asked, so no key is accepted."""


class UnknownModel(RingfenceError):
    """No such model is served to this caller."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model {model[:64]!r} does not exist or this key may not use it. "
            "GET /v1/models lists those it may.",
            param="model",
        )


class UnknownUrl(RingfenceError):
    """No such path."""


class WrongMethod(RingfenceError):
    """The path exists, the method does not."""


class Unexpected(RingfenceError):
    """A bug. The client sees a fixed sentence."""

    def __init__(self) -> None:
        super().__init__("The server failed to handle this request. It was logged by its id.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an error is told: HTTP status, OpenAI's type and code, seconds to wait if any."""

    status: int
    type: str
    code: str | None = None
    retry_after_s: int | None = None


OUTCOMES: dict[type[Exception], Outcome] = {
    InvalidRequest: Outcome(400, "invalid_request_error"),
    Unsupported: Outcome(400, "invalid_request_error", "unsupported_parameter"),
    RequestRejected: Outcome(400, "invalid_request_error"),
    ContextLengthExceeded: Outcome(400, "invalid_request_error", "context_length_exceeded"),
    MissingKey: Outcome(401, "authentication_error", "missing_api_key"),
    InvalidKey: Outcome(401, "authentication_error", "invalid_api_key"),
    NotPermitted: Outcome(403, "permission_error", "not_permitted"),
    UnknownModel: Outcome(404, "invalid_request_error", "model_not_found"),
    UnknownUrl: Outcome(404, "invalid_request_error", "unknown_url"),
    WrongMethod: Outcome(405, "invalid_request_error", "method_not_allowed"),
    BodyTimeout: Outcome(408, "invalid_request_error", "request_timeout"),
    BodyTooLarge: Outcome(413, "invalid_request_error", "request_too_large"),
    EngineFailed: Outcome(500, "server_error", "engine_failed"),
    Unexpected: Outcome(500, "server_error", "internal_error"),
    EngineOverloaded: Outcome(503, "server_error", "overloaded", retry_after_s=1),
    EngineUnavailable: Outcome(503, "server_error", "model_unavailable", retry_after_s=5),
    EngineTimeout: Outcome(503, "server_error", "engine_timeout", retry_after_s=5),
    StoreUnavailable: Outcome(503, "server_error", "key_store_unavailable", retry_after_s=5),
}


def outcome(error: RingfenceError | EngineError) -> Outcome:
    """The row of the most specific class of `error` that the table has."""
    return next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)


def envelope(error: RingfenceError | EngineError) -> bytes:
    """`{"error": {...}}` as JSON. `code` is a string or null, never a number."""
    told = outcome(error)
    body: dict[str, Any] = {
        "message": error.message,
        "type": told.type,
        "param": error.param,
        "code": told.code,
    }
    return orjson.dumps({"error": body})
