"""`/tokenize` and `/detokenize`, as vLLM has them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.engine import TokenizeRequest
from serving.config import LimitSettings, ServerSettings
from serving.gateway import body
from serving.gateway.responses import json_response
from serving.gateway.wire import DetokenizeBody, TokenizeBody
from serving.pipeline import Pipeline


def router(pipeline: Pipeline, *, server: ServerSettings, limits: LimitSettings) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter()

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        wire = await body.read(request, TokenizeBody, server=server, limits=limits)
        wire.check(limits)
        tokens = await pipeline.engine(principal, wire.model).tokenize(
            TokenizeRequest(
                prompt=wire.prompt,
                messages=[m.to_engine() for m in wire.messages] if wire.messages else None,
                tools=[tool.model_dump(exclude_none=True) for tool in wire.tools or []] or None,
                add_special_tokens=wire.add_special_tokens,
                add_generation_prompt=wire.add_generation_prompt,
                return_token_strs=wire.return_token_strs,
            )
        )
        answer = {
            "count": len(tokens.ids),
            "max_model_len": tokens.context_tokens,
            "tokens": tokens.ids,
            "token_strs": tokens.strings,
        }
        return json_response(answer)

    @routes.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        wire = await body.read(request, DetokenizeBody, server=server, limits=limits)
        text = await pipeline.engine(principal, wire.model).detokenize(wire.tokens)
        return json_response({"prompt": text})

    return routes
