"""The FastAPI application: routes by resource, and our errors on every path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from models.engine import EngineError
from serving.config import LimitSettings, ServerSettings
from serving.domain.errors import (
    InvalidRequest,
    RingfenceError,
    Unexpected,
    UnknownUrl,
    WrongMethod,
)
from serving.domain.model_state import Readiness
from serving.gateway import health
from serving.gateway.admin import routes
from serving.gateway.admin.administration import Administration
from serving.gateway.boundary import Boundary
from serving.gateway.edge import Edge
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import embeddings, generation, model_list, tokens
from serving.gateway.streaming import error_response
from serving.pipeline import Pipeline
from serving.telemetry.meter import Meter


def build_app(
    pipeline: Pipeline,
    idempotency: Idempotency,
    *,
    requests: OpenRequests,
    stop: Callable[[], Awaitable[object]] | None = None,
    readiness: Readiness,
    meter: Meter,
    server: ServerSettings,
    limits: LimitSettings,
    explained: APIRouter | None = None,
    administration: Administration | None = None,
    documents: APIRouter | None = None,
) -> ASGIApp:
    """The HTTP edge over a pipeline. No path of it imports torch, vllm or chromadb.

    `stop` is called when whoever runs the application ends it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if stop is not None:
            await stop()

    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    edge = Edge(
        pipeline.authenticate,
        idempotency,
        server=server,
        limits=limits,
        may_begin=pipeline.may_begin,
    )
    app.include_router(generation.router(pipeline, edge, server=server, limits=limits))
    app.include_router(embeddings.router(pipeline, edge, limits=limits))
    app.include_router(tokens.router(pipeline, edge, limits=limits))
    app.include_router(model_list.router(pipeline))
    app.include_router(health.router(readiness, meter, requests))
    for routes_of in (explained, documents):
        if routes_of is not None:
            app.include_router(routes_of)
    if administration is not None:
        app.include_router(routes.router(administration, idempotency, server=server, limits=limits))
    app.add_exception_handler(RingfenceError, _told)
    app.add_exception_handler(EngineError, _told)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _unexpected)
    return Boundary(app, requests)


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, RingfenceError | EngineError)  # noqa: S101  As registered.
    return error_response(error)


async def _framework(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: unknown path, wrong method, unreadable request."""
    assert isinstance(error, HTTPException)  # noqa: S101  As registered.
    if error.status_code == 404:
        return error_response(UnknownUrl("No such path. GET /v1/models is a good start."))
    if error.status_code == 405:
        response = error_response(WrongMethod(f"{request.method} is not offered on this path."))
        response.headers.update(error.headers or {})
        return response
    return error_response(InvalidRequest("The request cannot be read."))


async def _unexpected(_: Request, __: Exception) -> Response:
    return error_response(Unexpected())
