"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.engine import Kind
from serving.config import LimitSettings, ServerSettings
from serving.gateway import body
from serving.gateway.headers import LOCAL
from serving.gateway.responses import collected, streamed
from serving.gateway.wire import ChatRequest, CompletionRequest
from serving.pipeline import GenerationCall, Pipeline


def router(pipeline: Pipeline, *, server: ServerSettings, limits: LimitSettings) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter()

    async def answer(
        request: Request, kind: Kind, shape: type[ChatRequest | CompletionRequest]
    ) -> Response:
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        wire = await body.read(request, shape, server=server, limits=limits)
        wire.check(limits)
        if isinstance(wire, ChatRequest):
            await _check_schemas(wire, limits)
        call = GenerationCall(
            request_id=request.scope["request_id"],
            principal=principal,
            kind=kind,
            model=wire.model,
            body=wire.to_engine(),
            stream=bool(wire.stream),
        )
        if not call.stream:
            call.body["stream_options"] = {"include_usage": True}
            response = collected(pipeline.generate(call), headers=LOCAL)
        else:
            response = streamed(
                pipeline.generate(call), headers=LOCAL, keep_alive_s=server.keep_alive_s
            )
        return response

    async def create_chat_completion(request: Request) -> Response:
        return await answer(request, "chat", ChatRequest)

    async def create_completion(request: Request) -> Response:
        return await answer(request, "completion", CompletionRequest)

    # Plain routes: FastAPI would resolve dependencies, of which there are none, for each request.
    routes.add_route("/v1/chat/completions", create_chat_completion, methods=["POST"])
    routes.add_route("/v1/completions", create_completion, methods=["POST"])
    return routes


async def _check_schemas(wire: ChatRequest, limits: LimitSettings) -> None:
    if schemas := wire.schemas():
        await asyncio.to_thread(body.check_schemas, schemas, max_bytes=limits.max_schema_bytes)
