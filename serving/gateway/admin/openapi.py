"""The admin API described as OpenAPI 3.1, made from its routes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from serving.gateway.admin.objects import ErrorEnvelope
from serving.gateway.admin.wire import BODIES, AdminBody
from serving.gateway.idempotency import HEADER

_REFERENCE = "#/components/schemas/{model}"
_SECURITY = {
    "adminKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of role `admin`: `ringfence keys create --admin`.",
    }
}

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorEnvelope, "description": "The request is not what this takes."},
    401: {"model": ErrorEnvelope, "description": "No key was sent, or it is not valid."},
    403: {"model": ErrorEnvelope, "description": "The key sent is no admin key."},
    404: {"model": ErrorEnvelope, "description": "There is no such thing."},
    409: {"model": ErrorEnvelope, "description": "What is there does not allow the change."},
    503: {"model": ErrorEnvelope, "description": "The state cannot be asked now. Try again."},
    "default": {"model": ErrorEnvelope, "description": "Any other failure."},
}
"""Answers that every route may give."""


def takes(kind: type[AdminBody]) -> dict[str, Any]:
    """The description of a body. FastAPI must not read it: it has no bounds for that."""
    schema = {"$ref": _REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def takes_once(kind: type[AdminBody]) -> dict[str, Any]:
    """The description of the body of a POST, and of the header that makes it safe to repeat."""
    header = {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "A repeat with the same key and body gets the first answer.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
    return takes(kind) | {"parameters": [header]}


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of the admin API."""
    described = get_openapi(
        title="Ringfence admin API",
        version=version("ringfence"),
        openapi_version="3.1.0",
        description="Tenants, keys, limits, budgets, usage and the audit of a Ringfence server.",
        routes=routes,
    )
    _, bodies = models_json_schema(
        [(kind, "validation") for kind in BODIES], ref_template=_REFERENCE
    )
    described["components"]["schemas"] |= bodies["$defs"]
    described["components"]["securitySchemes"] = _SECURITY
    return described | {"security": [{"adminKey": []}]}
