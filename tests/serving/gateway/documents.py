"""Routes of files and stores on fakes: callers, and a server in the process."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serving.domain.errors import InvalidKey, RingfenceError
from serving.domain.principal import Principal
from serving.domain.search_call import RetrievedPassages, SearchCall
from serving.gateway.boundary import Boundary
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai.documents import DocumentsPipeline
from serving.gateway.streaming import error_response
from serving.retrieval.errors import errors_told
from tests.serving.wired import INVENTED_KEY


def caller(tenant: str, *groups: str) -> Principal:
    return Principal(
        tenant, f"{INVENTED_KEY}-{tenant}", "ci", "inference", None, groups=frozenset(groups)
    )


CALLERS = {"acme": caller("acme"), "legal": caller("acme", "legal"), "globex": caller("globex")}
"""Callers by key."""


@dataclass
class ScriptedGate(DocumentsPipeline):
    """Knows the callers, returns given results, and records calls."""

    found: RetrievedPassages | Exception = field(default_factory=lambda: RetrievedPassages([], []))
    asked: list[SearchCall] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)

    async def authenticate(self, authorization: str | None) -> Principal:
        key = (authorization or "").removeprefix("Bearer ")
        if key not in CALLERS or key in self.revoked:
            raise InvalidKey("The API key is not valid.")
        return CALLERS[key]

    async def search(self, call: SearchCall) -> RetrievedPassages:
        self.asked.append(call)
        if isinstance(self.found, Exception):
            with errors_told():
                raise self.found
        return self.found


def served(*routers: APIRouter) -> ASGIApp:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RingfenceError, _told)
    return Boundary(app, OpenRequests())


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, RingfenceError)
    return error_response(error)
