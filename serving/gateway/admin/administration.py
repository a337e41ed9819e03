"""The common part of the admin routes: stores, authentication, and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from rag.errors import RagError
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
from serving.access.tenants import TenantStore
from serving.accounting.usage import SpendingLookup, UsageReport
from serving.admission.limits import LimitStore
from serving.answering.outbound import Scrubber
from serving.config import LimitSettings, ServerSettings
from serving.domain.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RingfenceError,
    StateUnavailable,
)
from serving.domain.principal import Principal
from serving.gateway.admin.objects import AdminObject
from serving.gateway.body import Body
from serving.gateway.edge import Edge
from serving.gateway.idempotency import Idempotency
from serving.knowledge.curation import Curator
from serving.retrieval.errors import told
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable

MAX_BODY_BYTES = 64 * 1024
"""Largest body of an admin request."""


@dataclass(frozen=True, slots=True)
class Administration:
    """The stores that the admin API manages, and its authentication.

    Args:
        authenticate: from an `Authorization` header to whoever sent it; raises `AccessError`.
        database: where the audit is.
        models: ids of the models that are served.
        currency: of budgets and costs, such as `USD`.
        scrubber: makes requests ready to leave; None where nothing leaves.
        curator: looks after vector stores; None where no model embeds.
    """

    authenticate: Callable[[str | None], Awaitable[Principal]]
    database: Database
    tenants: TenantStore
    keys: KeyStore
    limits: LimitStore
    spending: SpendingLookup
    usage: UsageReport
    models: frozenset[str]
    currency: str
    scrubber: Scrubber | None = None
    curator: Curator | None = None


class AdminEdge(Edge):
    """Reads requests of admin keys; others do not pass.

    Args:
        administration: says who calls.
        idempotency: of POSTs.
        server: bounds of a body; here it has `MAX_BODY_BYTES` at most.
        limits: bounds of what is in it.
    """

    def __init__(
        self,
        administration: Administration,
        idempotency: Idempotency,
        *,
        server: ServerSettings,
        limits: LimitSettings,
    ) -> None:
        async def authenticate(authorization: str | None) -> Principal:
            caller = await administration.authenticate(authorization)
            caller.require("admin")
            return caller

        most = min(MAX_BODY_BYTES, server.max_body_bytes)
        bounded = server.model_copy(update={"max_body_bytes": most})
        super().__init__(authenticate, idempotency, server=bounded, limits=limits)

    async def answer(
        self,
        request: Request,
        kind: type[Body],
        make: Callable[[Body], Awaitable[AdminObject]],
    ) -> Response:
        """Answer with what `make` returns, once per `Idempotency-Key`. Raises as `once` does."""

        async def made(wire: Body) -> Response:
            with _errors_told():
                answer = await make(wire)
            text = answer.model_dump_json()
            return Response(text, media_type="application/json", headers=_SECRET)

        return await self.once(request, kind, made)


class AdminRoute(APIRoute):
    """A route whose errors get the same envelope as all others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler as FastAPI makes it, with the errors of the stores translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            with _errors_told():
                response = await handle(request)
            response.headers.update(_SECRET)
            return response

        return translated


@contextmanager
def _errors_told() -> Iterator[None]:
    """Errors of the stores become those of the API."""
    try:
        yield
    except RequestValidationError as error:
        raise _invalid(error) from None
    except KeysError as error:
        raise _told(error) from None
    except RagError as error:
        raise told(error) from None
    except (DatabaseUnavailable, ValkeyUnavailable):
        raise StateUnavailable(
            "The database or Valkey does not answer at the moment. Try again soon."
        ) from None


_SECRET = {"cache-control": "no-store"}
"""Headers of every answer: it may hold a key."""

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
