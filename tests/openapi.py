"""The whole gateway as one OpenAPI document: every route, what it takes, and our headers.

The routes are those of the application itself. Bodies are parsed by hand, not by FastAPI, so which
model a route reads is said here, and `test_openapi` sends to each route what its model refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from typing import Any, Self, cast

from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serving.config import LimitSettings, ServerSettings
from serving.config.retrieval import FileSettings
from serving.gateway.admin.openapi import document as admin_document
from serving.gateway.app import build_app
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import document_routes
from serving.gateway.openai import request_explanations as requests
from serving.gateway.wire.chat import (
    ChatRequest,
    CompletionRequest,
    DetokenizeBody,
    EmbeddingRequest,
    TokenizeBody,
)
from serving.gateway.wire.conversation import Wire
from serving.gateway.wire.vector_stores import (
    AttributesChange,
    BatchCreation,
    FileAttachment,
    FileChange,
    StoreChange,
    StoreCreation,
    StoreSearch,
)

BODIES: Mapping[str, type[Wire]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/v1/files/{file_id}": FileChange,
    "/v1/vector_stores": StoreCreation,
    "/v1/vector_stores/{store_id}": StoreChange,
    "/v1/vector_stores/{store_id}/search": StoreSearch,
    "/v1/vector_stores/{store_id}/files": FileAttachment,
    "/v1/vector_stores/{store_id}/files/{file_id}": AttributesChange,
    "/v1/vector_stores/{store_id}/file_batches": BatchCreation,
}
"""What the POST of a path reads as JSON."""

FORM = "/v1/files"
WITHOUT_BODY = {"/v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel"}

_REFERENCE = "#/components/schemas/{model}"


class Anything:
    """Stands for every part of the backend that a route is made with: nothing of it is used."""

    def __getattr__(self, _: str) -> Self:
        return self

    def __call__(self, *_: Any, **__: Any) -> Self:
        return self

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield


class Once:
    """Answers each request as it comes."""

    async def respond(
        self, _request: Any, _caller: Any, _raw: bytes, make: Callable[[], Awaitable[Response]]
    ) -> Response:
        return await make()


def application() -> ASGIApp:
    """The gateway with all of its routes, over nothing."""
    nothing, idempotency = cast("Any", Anything()), cast("Any", Once())
    server, limits = ServerSettings(), LimitSettings()
    return build_app(
        nothing,
        idempotency,
        requests=OpenRequests(),
        readiness=nothing,
        meter=nothing,
        server=server,
        limits=limits,
        explained=requests.router(nothing, nothing, currency="USD"),
        administration=nothing,
        documents=document_routes.router(
            nothing, idempotency, nothing, server=server, limits=limits, uploads=FileSettings()
        ),
    )


def routes() -> list[Route]:
    """All routes of the gateway."""
    app: Any = application()
    return [route for route in app._app.routes if isinstance(route, Route)]


def document() -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    described = admin_document([_described(route) for route in routes()])
    _, bodies = models_json_schema(
        [(kind, "validation") for kind in BODIES.values()], ref_template=_REFERENCE
    )
    described["components"]["schemas"] |= bodies["$defs"]
    return described


def _described(route: Route) -> APIRoute:
    """A route as FastAPI describes it; those of generation are none of FastAPI's."""
    kind = BODIES.get(route.path) if "POST" in (route.methods or ()) else None
    body = {} if kind is None else _takes(kind)
    if isinstance(route, APIRoute):
        route.openapi_extra = (route.openapi_extra or {}) | body
        return route
    return APIRoute(route.path, route.endpoint, methods=route.methods, openapi_extra=body)


def _takes(kind: type[Wire]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
