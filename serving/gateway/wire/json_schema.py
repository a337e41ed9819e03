"""Whether a client's JSON is a JSON schema (draft 2020-12): the metaschema, in one walk.

A validator that interprets the metaschema needs up to 50 s for 64 KiB. This one looks at each value
once. `tests/serving/gateway/wire/test_json_schema.py` compares it with `jsonschema`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from re import _parser as regex_parser  # type: ignore[attr-defined]
from typing import Any

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_ANCHOR = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*")
_ID = re.compile(r"[^#]*#?")

Inner = list[Any] | None
"""What has to be a schema within a keyword's value; None if the value is wrong."""


def is_schema(value: Any) -> bool:
    """Whether a value is a JSON schema. The time it takes is linear in the value's size."""
    left = [value]
    while left:
        schema = left.pop()
        if isinstance(schema, bool):
            continue
        if not isinstance(schema, dict):
            return False
        for keyword, given in schema.items():
            if keyword in _KEYWORDS:
                inner = _KEYWORDS[keyword](given)
                if inner is None:
                    return False
                left += inner
    return True


def _right(*, is_right: bool) -> Inner:
    return [] if is_right else None


def _schema(value: Any) -> Inner:
    return [value]


def _schemas(value: Any) -> Inner:
    return value if isinstance(value, list) and value else None


def _named_schemas(value: Any) -> Inner:
    return list(value.values()) if isinstance(value, dict) else None


def _schemas_by_pattern(value: Any) -> Inner:
    named = _named_schemas(value)
    return named if named is not None and all(map(_is_regex, value)) else None


def _dependencies(value: Any) -> Inner:
    if not isinstance(value, dict):
        return None
    return [one for one in value.values() if not _is_texts(one)]


def _text(value: Any) -> Inner:
    return _right(is_right=isinstance(value, str))


def _texts(value: Any) -> Inner:
    return _right(is_right=_is_texts(value))


def _named_texts(value: Any) -> Inner:
    return _right(is_right=isinstance(value, dict) and all(map(_is_texts, value.values())))


def _list(value: Any) -> Inner:
    return _right(is_right=isinstance(value, list))


def _flag(value: Any) -> Inner:
    return _right(is_right=isinstance(value, bool))


def _number(value: Any) -> Inner:
    return _right(is_right=_is_number(value))


def _above_zero(value: Any) -> Inner:
    return _right(is_right=_is_number(value) and value > 0)


def _count(value: Any) -> Inner:
    return _right(is_right=_is_number(value) and value >= 0 and value == int(value))


def _type(value: Any) -> Inner:
    if isinstance(value, str):
        return _right(is_right=value in _TYPES)
    return _right(is_right=_is_texts(value) and bool(value) and _TYPES.issuperset(value))


def _pattern(value: Any) -> Inner:
    return _right(is_right=isinstance(value, str) and _is_regex(value))


def _anchor(value: Any) -> Inner:
    return _right(is_right=isinstance(value, str) and bool(_ANCHOR.fullmatch(value)))


def _id(value: Any) -> Inner:
    return _right(is_right=isinstance(value, str) and bool(_ID.fullmatch(value)))


def _vocabulary(value: Any) -> Inner:
    flags = isinstance(value, dict) and all(isinstance(one, bool) for one in value.values())
    return _right(is_right=flags)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    """Whether it is a list of texts, none of them twice."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return False
    return len(set(value)) == len(value)


def _is_regex(text: str) -> bool:
    """Whether it is a regular expression.

    It is parsed and not compiled: `re.compile` takes 45 s for 64 KiB of wide character ranges.
    """
    try:
        regex_parser.parse(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


_KEYWORDS: Mapping[str, Callable[[Any], Inner]] = {
    **dict.fromkeys(
        (
            "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
            "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
        ),
        _schema,
    ),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _schemas),
    **dict.fromkeys(
        ("$defs", "definitions", "dependentSchemas", "properties"), _named_schemas
    ),
    "patternProperties": _schemas_by_pattern,
    "dependencies": _dependencies,
    **dict.fromkeys(
        (
            "$comment", "$dynamicRef", "$recursiveRef", "$ref", "$schema", "contentEncoding",
            "contentMediaType", "description", "format", "title",
        ),
        _text,
    ),
    "required": _texts,
    "dependentRequired": _named_texts,
    **dict.fromkeys(("enum", "examples"), _list),
    **dict.fromkeys(("deprecated", "readOnly", "uniqueItems", "writeOnly"), _flag),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"), _number),
    "multipleOf": _above_zero,
    **dict.fromkeys(
        (
            "maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems",
            "minLength", "minProperties",
        ),
        _count,
    ),
    "type": _type,
    "pattern": _pattern,
    **dict.fromkeys(("$anchor", "$dynamicAnchor", "$recursiveAnchor"), _anchor),
    "$id": _id,
    "$vocabulary": _vocabulary,
}  # fmt: skip
