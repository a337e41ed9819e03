"""`/tokenize` and `/detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.engine import TokenizeRequest, Tokens
from serving.config import LimitSettings
from serving.domain.calls import Call
from serving.gateway.edge import Edge, principal
from serving.gateway.headers import quota_headers
from serving.gateway.streaming import json_response
from serving.gateway.wire.chat import DetokenizeBody, TokenizeBody
from serving.gateway.wire.options import options
from serving.pipeline import Pipeline


def router(pipeline: Pipeline, edge: Edge, *, limits: LimitSettings) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter()

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        """Tokenise a text or a conversation as the model does. vLLM has the same route."""
        await edge.admit(request)

        async def make(wire: TokenizeBody) -> Response:
            call = _call(request, wire.model)
            tokens, quota = await pipeline.tokenize(call, _asked(wire))
            return json_response(_told(tokens), headers=quota_headers(quota))

        return await edge.once(request, TokenizeBody, make, check=lambda wire: wire.check(limits))

    @routes.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        """Return the text of token ids. vLLM has the same route."""
        await edge.admit(request)

        async def make(wire: DetokenizeBody) -> Response:
            call = _call(request, wire.model)
            text, quota = await pipeline.detokenize(call, wire.tokens)
            return json_response({"prompt": text}, headers=quota_headers(quota))

        return await edge.once(request, DetokenizeBody, make)

    return routes


def _call(request: Request, model: str) -> Call:
    return Call(
        request_id=request.scope["request_id"],
        principal=principal(request),
        model=model,
        options=options(request),
    )


def _asked(wire: TokenizeBody) -> TokenizeRequest:
    return TokenizeRequest(
        prompt=wire.prompt,
        messages=[m.to_engine() for m in wire.messages] if wire.messages else None,
        tools=[tool.model_dump(exclude_none=True) for tool in wire.tools or []] or None,
        add_special_tokens=wire.add_special_tokens,
        add_generation_prompt=wire.add_generation_prompt,
        return_token_strs=wire.return_token_strs,
    )


def _told(tokens: Tokens) -> dict[str, Any]:
    return {
        "count": len(tokens.ids),
        "max_model_len": tokens.context_tokens,
        "tokens": tokens.ids,
        "token_strs": tokens.strings,
    }
