"""What the routes of the admin API share: what they work on, who calls, and how errors are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from serving.access.errors import (
    InvalidTime,
    KeyInactive,
    KeyNameTaken,
    KeyNotFound,
    KeysError,
    LimitNotFound,
    TenantExists,
    TenantNotFound,
)
from serving.access.keys import KeyStore
from serving.access.limits import LimitStore
from serving.access.principal import Principal
from serving.access.tenants import TenantStore
from serving.accounting.usage import Spending, UsageReport
from serving.config import LimitSettings, ServerSettings
from serving.errors import Conflict, InvalidRequest, NotFound, RingfenceError, StateUnavailable
from serving.gateway import body
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable

MAX_BODY_BYTES = 64 * 1024
"""Of a body here; what may be sent to a model is much larger."""


@dataclass(frozen=True, slots=True)
class Administration:
    """What is managed, and who says who may.

    Args:
        authenticate: from an `Authorization` header to whoever sent it; raises `AccessError`.
        database: where the audit is.
        models: ids of the models that are served.
        currency: of budgets and costs, such as `USD`.
    """

    authenticate: Callable[[str | None], Awaitable[Principal]]
    database: Database
    tenants: TenantStore
    keys: KeyStore
    limits: LimitStore
    spending: Spending
    usage: UsageReport
    models: frozenset[str]
    currency: str


@dataclass(frozen=True, slots=True)
class Bodies:
    """Reads bodies within the operator's bounds."""

    server: ServerSettings
    limits: LimitSettings

    async def read(self, request: Request, kind: type[body.Body]) -> body.Body:
        """The body as a wire model; raises as `body.read` does."""
        most = min(MAX_BODY_BYTES, self.server.max_body_bytes)
        server = self.server.model_copy(update={"max_body_bytes": most})
        return await body.read(request, kind, server=server, limits=self.limits)


def guard(administration: Administration) -> Callable[[Request], Awaitable[None]]:
    """Lets admin keys pass. A dependency of the whole router, so that no route can forget it."""

    async def admins_only(request: Request) -> None:
        principal = await administration.authenticate(request.headers.get("authorization"))
        principal.require("admin")
        request.state.admin = principal

    return admins_only


def admin(request: Request) -> Principal:
    """Who calls; only after `guard`."""
    principal: Principal = request.state.admin
    return principal


class AdminRoute(APIRoute):
    """A route whose errors are told as those of all others are."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler as FastAPI makes it, with the errors of the stores translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                response = await handle(request)
            except RequestValidationError as error:
                raise _invalid(error) from None
            except KeysError as error:
                raise _told(error) from None
            except (DatabaseUnavailable, ValkeyUnavailable):
                raise StateUnavailable(
                    "The database or Valkey does not answer at the moment. Try again soon."
                ) from None
            response.headers["cache-control"] = "no-store"  # It may hold a key.
            return response

        return translated


_NOT_FOUND = (KeyNotFound, LimitNotFound, TenantNotFound)
_CONFLICTS = (KeyInactive, KeyNameTaken, TenantExists)


def _told(error: KeysError) -> RingfenceError:
    text = str(error)
    message = f"{text[:1].upper()}{text[1:]}."
    if isinstance(error, _NOT_FOUND):
        return NotFound(message)
    if isinstance(error, _CONFLICTS):
        return Conflict(message)
    return InvalidRequest(message, param="expires_at" if isinstance(error, InvalidTime) else None)


def _invalid(error: RequestValidationError) -> InvalidRequest:
    """The first problem with a path or its query."""
    row = error.errors()[0]
    param = str(row["loc"][-1])
    message = row["msg"].removeprefix("Value error, ")
    for subject in ("Input should", "String should"):
        message = message.replace(subject, "must")
    return InvalidRequest(f"{param}: {message}", param=param)
