"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.engine import Kind
from models.openai_stream import WITH_USAGE
from serving.config import LimitSettings, ServerSettings
from serving.domain.calls import GenerationCall
from serving.domain.principal import Principal
from serving.domain.search_call import FileSearch
from serving.gateway import body
from serving.gateway.edge import Edge, principal
from serving.gateway.streaming import collected, streamed
from serving.gateway.wire.chat import ChatRequest, CompletionRequest
from serving.gateway.wire.options import on_failure, options, privacy
from serving.pipeline import Pipeline


def router(
    pipeline: Pipeline, edge: Edge, *, server: ServerSettings, limits: LimitSettings
) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter()

    async def answer(
        request: Request, kind: Kind, token_budget: type[ChatRequest | CompletionRequest]
    ) -> Response:
        await edge.admit(request)

        async def make(wire: ChatRequest | CompletionRequest) -> Response:
            file_search = wire.grounding() if isinstance(wire, ChatRequest) else None
            call = _call(request, principal(request), kind, wire)
            return _response(call, file_search)

        return await edge.once(request, token_budget, make, check=_check)

    def _check(wire: ChatRequest | CompletionRequest) -> None:
        wire.check(limits)
        if isinstance(wire, ChatRequest) and (schemas := wire.schemas()):
            body.check_schemas(schemas, max_bytes=limits.max_schema_bytes)

    def _response(call: GenerationCall, file_search: FileSearch | None) -> Response:
        generating = pipeline.generate(call, file_search)
        if call.stream:
            return streamed(generating, keep_alive_s=server.keep_alive_s)
        return collected(generating)

    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation.

        With `file_search` the answer is grounded in documents and cites them.
        """
        return await answer(request, "chat", ChatRequest)

    async def create_completion(request: Request) -> Response:
        """Complete prompts."""
        return await answer(request, "completion", CompletionRequest)

    # Plain routes: FastAPI would resolve dependencies, of which there are none, for each request.
    routes.add_route("/v1/chat/completions", create_chat_completion, methods=["POST"])
    routes.add_route("/v1/completions", create_completion, methods=["POST"])
    return routes


def _call(
    request: Request, caller: Principal, kind: Kind, wire: ChatRequest | CompletionRequest
) -> GenerationCall:
    call = GenerationCall(
        request_id=request.scope["request_id"],
        principal=caller,
        kind=kind,
        model=wire.model,
        body=wire.to_engine(),
        stream=bool(wire.stream),
        options=options(request),
        privacy=privacy(request, caller, wire.privacy),
        on_failure=on_failure(request, wire.on_failure),
    )
    if not call.stream:
        call.body.update(WITH_USAGE)
    return call
