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
    ReaderTooSlow,
    RequestRejected,
)
from serving.domain.quota import Quota


class RingfenceError(Exception):
    """An error of the backend itself. The message is shown to the client.

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
    ├── AdmissionError
    │   ├── RateLimited          a limit is reached: there is room again in a while
    │   ├── TooManyTokens        more than the limit of one request; waiting does not help
    │   ├── BudgetExhausted      the money is spent
    │   ├── BudgetHeld           running requests may use up what is left of a budget
    │   ├── Overloaded           the engine's queue is full, or the wait would be too long
    │   ├── DeadlineExceeded     the client's own, or the longest that a request may take
    │   └── AdmissionUnavailable a limit cannot be checked that lets nothing through unchecked
    ├── LeavingRefused           it may not leave, or nobody outside may take it now
    ├── UnknownModel
    ├── UnknownUrl
    ├── WrongMethod
    ├── IdempotencyConflict      the idempotency key was used for another request
    ├── IdempotencyTooLarge      its answer was too large to be kept for a repeat
    ├── IdempotencyUnavailable   no record can be kept now, so nothing runs
    ├── NotFound                 what a path of the admin API names does not exist
    ├── Conflict                 what is there does not allow the change
    ├── StateUnavailable         the database or Valkey cannot be asked now
    ├── ServerStopping           the server takes no more requests, or its time to drain is over
    └── Unexpected               a bug; the cause is in the log
    """

    retry_after_s: float | None = None
    """How long the client should wait, if the error knows better than the table."""

    quota: Quota | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(RingfenceError):
    """The body is not what the endpoint takes; `param` is the field."""


class Unsupported(InvalidRequest):
    """The request is well formed, but this server does not offer it."""


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


class AdmissionError(RingfenceError):
    """The request is not let in, or not let go on."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        quota: Quota | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s
        self.quota = quota


class RateLimited(AdmissionError):
    """A limit of the key, the tenant or the model is reached."""


class TooManyTokens(AdmissionError):
    """One request asks for more tokens than it may."""


class BudgetExhausted(AdmissionError):
    """The budget of this window is spent, or this request could cost more than is left."""


class BudgetHeld(AdmissionError):
    """Running requests may use up the rest of a budget."""


class Overloaded(AdmissionError):
    """Too many requests wait for the model, or this one would wait for too long."""


class DeadlineExceeded(AdmissionError):
    """The request was not done in its time."""

    def __init__(self) -> None:
        super().__init__("The request was not done in its time.")


class AdmissionUnavailable(AdmissionError):
    """Limits cannot be checked now, and one of them lets nothing through unchecked."""


class LeavingRefused(RingfenceError):
    """The request may not leave, or no provider may take it now.

    `reason` is one word. `detail` says more where that is of the request itself, without its text.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "refused",
        detail: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


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


class IdempotencyConflict(RingfenceError):
    """The idempotency key was used for another request."""


class IdempotencyTooLarge(RingfenceError):
    """The request of this idempotency key was answered, and the answer was too large to keep."""


class IdempotencyUnavailable(RingfenceError):
    """The record of an idempotency key cannot be made or read now."""


class NotFound(RingfenceError):
    """The path names something that does not exist."""


class Conflict(RingfenceError):
    """The present state does not allow the change."""


class StateUnavailable(RingfenceError):
    """The database or Valkey cannot be asked now."""


class ServerStopping(RingfenceError):
    """The server takes no more requests, or ends one that outlasted its time to drain."""

    def __init__(self) -> None:
        super().__init__("The server is stopping. Try again soon.")


class Unexpected(RingfenceError):
    """A bug. The client sees a fixed sentence."""

    def __init__(self) -> None:
        super().__init__("The server failed to handle this request. It was logged by its id.")


@dataclass(frozen=True, slots=True)
class ErrorOutcome:
    """How an error is reported: HTTP status, OpenAI's type and code, and seconds to wait, if any.

    `retry` false tells OpenAI's clients not to try again, whatever the status.
    """

    status: int
    type: str
    code: str | None = None
    retry_after_s: int | None = None
    retry: bool = True


OUTCOMES: dict[type[Exception], ErrorOutcome] = {
    InvalidRequest: ErrorOutcome(400, "invalid_request_error"),
    Unsupported: ErrorOutcome(400, "invalid_request_error", "unsupported_parameter"),
    RequestRejected: ErrorOutcome(400, "invalid_request_error"),
    ContextLengthExceeded: ErrorOutcome(400, "invalid_request_error", "context_length_exceeded"),
    MissingKey: ErrorOutcome(401, "authentication_error", "missing_api_key"),
    InvalidKey: ErrorOutcome(401, "authentication_error", "invalid_api_key"),
    NotPermitted: ErrorOutcome(403, "permission_error", "not_permitted"),
    UnknownModel: ErrorOutcome(404, "invalid_request_error", "model_not_found"),
    UnknownUrl: ErrorOutcome(404, "invalid_request_error", "unknown_url"),
    WrongMethod: ErrorOutcome(405, "invalid_request_error", "method_not_allowed"),
    BodyTimeout: ErrorOutcome(408, "invalid_request_error", "request_timeout"),
    IdempotencyConflict: ErrorOutcome(
        409, "invalid_request_error", "idempotency_key_reused", retry=False
    ),
    IdempotencyTooLarge: ErrorOutcome(
        409, "invalid_request_error", "idempotency_response_too_large", retry=False
    ),
    BodyTooLarge: ErrorOutcome(413, "invalid_request_error", "request_too_large"),
    RateLimited: ErrorOutcome(429, "rate_limit_error", "rate_limit_exceeded", retry_after_s=1),
    BudgetHeld: ErrorOutcome(429, "rate_limit_error", "budget_held", retry_after_s=2),
    TooManyTokens: ErrorOutcome(
        429, "rate_limit_error", "too_many_tokens", retry_after_s=120, retry=False
    ),
    BudgetExhausted: ErrorOutcome(
        429, "insufficient_quota", "insufficient_quota", retry_after_s=120, retry=False
    ),
    ReaderTooSlow: ErrorOutcome(408, "invalid_request_error", "client_too_slow"),
    EngineFailed: ErrorOutcome(500, "server_error", "engine_failed"),
    Unexpected: ErrorOutcome(500, "server_error", "internal_error"),
    Overloaded: ErrorOutcome(503, "server_error", "overloaded", retry_after_s=1),
    AdmissionUnavailable: ErrorOutcome(503, "server_error", "limits_unavailable", retry_after_s=5),
    LeavingRefused: ErrorOutcome(503, "server_error", "overflow_refused", retry_after_s=5),
    DeadlineExceeded: ErrorOutcome(504, "server_error", "deadline_exceeded", retry=False),
    EngineOverloaded: ErrorOutcome(503, "server_error", "overloaded", retry_after_s=1),
    EngineUnavailable: ErrorOutcome(503, "server_error", "model_unavailable", retry_after_s=5),
    EngineTimeout: ErrorOutcome(503, "server_error", "engine_timeout", retry_after_s=5),
    IdempotencyUnavailable: ErrorOutcome(
        503, "server_error", "idempotency_unavailable", retry_after_s=5
    ),
    StoreUnavailable: ErrorOutcome(503, "server_error", "key_store_unavailable", retry_after_s=5),
    NotFound: ErrorOutcome(404, "invalid_request_error", "not_found"),
    Conflict: ErrorOutcome(409, "invalid_request_error", "conflict"),
    StateUnavailable: ErrorOutcome(503, "server_error", "state_unavailable", retry_after_s=5),
    ServerStopping: ErrorOutcome(503, "server_error", "server_stopping", retry_after_s=5),
}

MAX_RETRY_AFTER_S = 120
"""OpenAI's clients give up when they are told to wait for longer."""


def retry_after_s(error: RingfenceError | EngineError) -> float | None:
    """Return how long to wait before another try; None if that is not known."""
    known = error.retry_after_s if isinstance(error, RingfenceError) else None
    seconds = outcome(error).retry_after_s if known is None else known
    return None if seconds is None else min(MAX_RETRY_AFTER_S, max(0.0, seconds))


def outcome(error: RingfenceError | EngineError) -> ErrorOutcome:
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
