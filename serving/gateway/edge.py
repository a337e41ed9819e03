"""Reading a request: who calls and what it says; and answering each POST once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from serving.config import LimitSettings, ServerSettings
from serving.domain.principal import Principal
from serving.gateway import body
from serving.gateway.idempotency import Idempotency
from serving.gateway.large_bodies import LARGE_BYTES, LargeBodies

Authenticate = Callable[[str | None], Awaitable[Principal]]
"""Turns an `Authorization` header into the caller. Raises `AccessError`."""

MayBegin = Callable[[Principal, str], Awaitable[None]]
"""Raises `RateLimited` if a limit of the caller forbids the request of that id already."""


class Edge:
    """Reads requests and answers each POST once.

    The caller is looked up before the body is read, so that a stranger sends none, and again when
    the body is there: it may take long, and its key may have changed or been revoked meanwhile.

    Args:
        authenticate: says who calls.
        idempotency: of POSTs.
        server: bounds of a body.
        limits: bounds of what is in it.
        may_begin: asked before a large body is parsed.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        idempotency: Idempotency,
        *,
        server: ServerSettings,
        limits: LimitSettings,
        may_begin: MayBegin | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._idempotency = idempotency
        self._server = server
        self._limits = limits
        self._may_begin = may_begin
        self._bodies = LargeBodies(server.max_body_bytes)

    async def admit(self, request: Request) -> None:
        """Find out who calls; `principal` tells from then on. Raises `AccessError`."""
        request.state.principal = await self._authenticate(request.headers.get("authorization"))

    async def read(self, request: Request, kind: type[body.Body]) -> body.Body:
        """The body as a wire model.

        Raises:
            AccessError: the caller's key does not work any more.
            RateLimited, Overloaded: too much is read at once.
            BodyTooLarge, BodyTimeout, InvalidRequest: see `body.receive` and `body.parse`.
        """
        with self._bodies.held(principal(request).key_id) as hold:
            raw = await body.receive(request, self._server, hold)
            await self.admit(request)
            return await self._parsed(request, raw, kind, None)

    async def once(
        self,
        request: Request,
        kind: type[body.Body],
        make: Callable[[body.Body], Awaitable[Response]],
        *,
        check: Callable[[body.Body], None] | None = None,
    ) -> Response:
        """Answer with what `make` returns, once for each `Idempotency-Key`.

        Args:
            request: not yet read.
            kind: what its body is.
            make: makes the response.
            check: refuses what is well formed and not allowed. Runs in a thread if that is large.

        Raises as `read` and `Idempotency.respond` do.
        """
        with self._bodies.held(principal(request).key_id) as hold:
            raw = await body.receive(request, self._server, hold)
            await self.admit(request)

            async def respond() -> Response:
                return await make(await self._parsed(request, raw, kind, check))

            return await self._idempotency.respond(request, principal(request), raw, respond)

    async def _parsed(
        self,
        request: Request,
        raw: bytes,
        kind: type[body.Body],
        check: Callable[[body.Body], None] | None,
    ) -> body.Body:
        """The body as a wire model. A large one is parsed off the loop, if limits allow it."""

        def parse() -> body.Body:
            wire = body.parse(raw, kind, max_depth=self._limits.max_depth)
            if check is not None:
                check(wire)
            return wire

        if len(raw) <= LARGE_BYTES:
            return parse()
        if self._may_begin is not None:
            await self._may_begin(principal(request), request.scope["request_id"])
        return await self._bodies.parsed(principal(request).key_id, parse)


def principal(request: Request) -> Principal:
    """Who calls; only after `Edge.admit`."""
    known: Principal = request.state.principal
    return known
