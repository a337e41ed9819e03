"""`/tokenize` and `/detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.engine import TokenizeRequest, Tokens
from serving.access.principal import Principal
from serving.attempts import Call
from serving.config import LimitSettings, ServerSettings
from serving.gateway import body
from serving.gateway.headers import quota_headers
from serving.gateway.idempotency import Idempotency
from serving.gateway.responses import json_response
from serving.gateway.terms import terms
from serving.gateway.wire import DetokenizeBody, TokenizeBody
from serving.pipeline import Pipeline


def router(
    pipeline: Pipeline,
    idempotency: Idempotency,
    *,
    server: ServerSettings,
    limits: LimitSettings,
) -> APIRouter:
    """Routes over a pipeline."""
    routes = APIRouter()

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        raw = await body.receive(request, server)

        async def make() -> Response:
            wire = body.parse(raw, TokenizeBody, max_depth=limits.max_depth)
            wire.check(limits)
            call = _call(request, principal, wire.model)
            tokens, quota = await pipeline.tokenize(call, _asked(wire))
            return json_response(_told(tokens), headers=quota_headers(quota))

        return await idempotency.respond(request, principal, raw, make)

    @routes.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        principal = await pipeline.authenticate(request.headers.get("authorization"))
        raw = await body.receive(request, server)

        async def make() -> Response:
            wire = body.parse(raw, DetokenizeBody, max_depth=limits.max_depth)
            call = _call(request, principal, wire.model)
            text, quota = await pipeline.detokenize(call, wire.tokens)
            return json_response({"prompt": text}, headers=quota_headers(quota))

        return await idempotency.respond(request, principal, raw, make)

    return routes


def _call(request: Request, principal: Principal, model: str) -> Call:
    return Call(
        request_id=request.scope["request_id"],
        principal=principal,
        model=model,
        terms=terms(request),
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
