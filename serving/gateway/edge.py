"""Reading a request: who calls and what it says; and answering each POST once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from serving.config import LimitSettings, ServerSettings
from serving.domain.principal import Principal
from serving.gateway import body
from serving.gateway.idempotency import Idempotency

Authenticate = Callable[[str | None], Awaitable[Principal]]
"""Turns an `Authorization` header into the caller. Raises `AccessError`."""


class Edge:
    """Reads requests and answers each POST once.

    The caller is looked up before the body is read, so that a stranger sends none, and again when
    the body is there: it may take long, and its key may have changed or been revoked meanwhile.

    Args:
        authenticate: says who calls.
        idempotency: of POSTs.
        server: bounds of a body.
        limits: bounds of what is in it.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        idempotency: Idempotency,
        *,
        server: ServerSettings,
        limits: LimitSettings,
    ) -> None:
        self._authenticate = authenticate
        self._idempotency = idempotency
        self._server = server
        self._limits = limits

    async def admit(self, request: Request) -> None:
        """Find out who calls; `principal` tells from then on. Raises `AccessError`."""
        request.state.principal = await self._authenticate(request.headers.get("authorization"))

    async def read(self, request: Request, kind: type[body.Body]) -> body.Body:
        """The body as a wire model.

        Raises:
            AccessError: the caller's key does not work any more.
            BodyTooLarge, BodyTimeout, InvalidRequest: see `body.receive` and `body.parse`.
        """
        raw = await body.receive(request, self._server)
        await self.admit(request)
        return body.parse(raw, kind, max_depth=self._limits.max_depth)

    async def once(
        self,
        request: Request,
        kind: type[body.Body],
        make: Callable[[body.Body], Awaitable[Response]],
    ) -> Response:
        """Answer with what `make` returns, once for each `Idempotency-Key`.

        Raises as `read` and `Idempotency.respond` do.
        """
        raw = await body.receive(request, self._server)
        await self.admit(request)

        async def respond() -> Response:
            return await make(body.parse(raw, kind, max_depth=self._limits.max_depth))

        return await self._idempotency.respond(request, principal(request), raw, respond)


def principal(request: Request) -> Principal:
    """Who calls; only after `Edge.admit`."""
    known: Principal = request.state.principal
    return known
