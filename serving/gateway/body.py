"""A request's body: read within a deadline and a size, parsed, and validated with our errors."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from serving.config import ServerSettings
from serving.domain.errors import BodyTimeout, BodyTooLarge, InvalidRequest
from serving.gateway.large_bodies import Hold
from serving.gateway.wire.conversation import Wire
from serving.gateway.wire.json_schema import is_schema
from serving.gateway.wire.own_fields import refuse_look_alikes, settled

Body = TypeVar("Body", bound=Wire)

MAX_CONTAINERS = 50_000
"""Objects and arrays that a body may have. 8 MiB could hold 2.8 million of them, and to parse those
takes a second in which nothing else runs; strings and numbers take a hundredth of that."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


async def receive(request: Request, server: ServerSettings, hold: Hold) -> bytes:
    """The body as it was sent.

    Args:
        request: not yet read.
        server: bounds.
        hold: counts its bytes as they arrive.

    Raises:
        BodyTooLarge, BodyTimeout: one bound or the other.
        RateLimited, Overloaded: as `hold` does.
    """
    try:
        async with asyncio.timeout(server.body_timeout_s):
            return await _receive(request, server.max_body_bytes, hold)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {server.body_timeout_s:g} s.") from None


def parse(raw: bytes, kind: type[Body], *, max_depth: int) -> Body:
    """A wire model from JSON. Raises `InvalidRequest`."""
    if _containers(raw) > MAX_CONTAINERS:
        raise InvalidRequest(f"The body has more than {MAX_CONTAINERS} objects and arrays.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON ({where}).") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if _deeper_than(value, max_depth):
        raise InvalidRequest(f"The body is nested more than {max_depth} levels deep.")
    fields = kind.model_fields.keys()
    value = settled(raw, value, fields)
    if kind.model_config["extra"] == "ignore":
        refuse_look_alikes(value, fields)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _invalid(error, value) from None


def check_schemas(schemas: dict[str, dict[str, Any]], *, max_bytes: int) -> None:
    """Refuse a JSON schema that is none, points outside itself, or makes all of them too large.

    Raises:
        InvalidRequest: `param` is the field the schema stands in.
    """
    left = max_bytes
    for param, schema in schemas.items():
        left -= len(orjson.dumps(schema))
        if left < 0:
            raise InvalidRequest(
                f"The schemas of a request may have {max_bytes} bytes together.", param=param
            )
        if not is_schema(schema):
            raise InvalidRequest("Not a valid JSON schema.", param=param)
        if any(not ref.startswith("#") for ref in _references(schema)):
            raise InvalidRequest("A schema's $ref may only point into itself.", param=param)


async def _receive(request: Request, max_bytes: int, hold: Hold) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > max_bytes):
        raise _too_large(max_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            hold(len(piece))
            pieces.append(piece)
    except ClientDisconnect:
        raise InvalidRequest("The client went away before the body was complete.") from None
    return b"".join(pieces)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {max_bytes} bytes.")


def _containers(raw: bytes) -> int:
    """How many objects and arrays a JSON text has; more than it has only if they are few."""
    count = raw.count(b"[") + raw.count(b"{")
    if count <= MAX_CONTAINERS:
        return count
    outside = _STRING.sub(b"", raw)  # What a text holds is no container: it may be code.
    return outside.count(b"[") + outside.count(b"{")


def _deeper_than(value: Any, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [ref for item in schema for ref in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [v for k, v in schema.items() if k in ("$ref", "$dynamicRef") and isinstance(v, str)]
    return own + [ref for item in schema.values() for ref in _references(item)]


def _invalid(error: ValidationError, body: dict[str, Any]) -> InvalidRequest:
    """Report the deepest problem in the body, without any of the body's text."""
    rows = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [_path(row["loc"], body, missing=row["type"] == "missing") for row in rows]
    row, path = max(zip(rows, paths, strict=True), key=lambda pair: len(pair[1]))
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    param = param.lstrip(".")
    message = _MESSAGES.get(row["type"]) or _AFTER.split(row["msg"])[0]
    message = _SUBJECT.sub(lambda found: _SUBJECTS[found[0]], message)
    return InvalidRequest(f"{param}: {message}" if param else message, param=param or None)


_MESSAGES = {
    "missing": "is required",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "union_tag_invalid": "is of no type that is known here",
    "union_tag_not_found": "has no type that is known here",
}
"""Messages for errors whose own words would name a class of ours, or a value of the client's."""

_SUBJECTS = {
    "Value error, ": "",
    "List should": "must",
    "Input should": "must",
    "String should": "must",
}
_SUBJECT = re.compile("^(" + "|".join(_SUBJECTS) + ")")
_AFTER = re.compile(" after validation")


def _path(loc: tuple[int | str, ...], body: dict[str, Any], *, missing: bool) -> list[int | str]:
    """`loc` without the names of union members that pydantic puts in it."""
    path: list[int | str] = []
    value: Any = body
    for at, part in enumerate(loc):
        if isinstance(value, dict) and isinstance(part, str):
            if part not in value and not (missing and at == len(loc) - 1):
                continue
            path.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            path.append(part)
            value = value[part] if part < len(value) else None
    return path
