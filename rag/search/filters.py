"""Filters on file attributes, as in OpenAI's vector store API.

A comparison works on values of one kind: strings, numbers or booleans. If a file lacks the
attribute, or has one of another kind, it is unequal to the value, and neither above nor below it.
"""

from __future__ import annotations

import math
import operator as operators
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    String,
    and_,
    case,
    false,
    literal,
    not_,
    or_,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from rag.errors import Refused
from rag.schema import StoreFile

MAX_DEPTH = 8
MAX_NODES = 64
MAX_VALUES = 256
"""Maximum values of one `in` or `nin`."""

Value = str | float | bool
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Joint = Literal["and", "or"]
Kind = Literal["text", "truth", "number"]

_ORDERS = {"gt", "gte", "lt", "lte"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares an attribute with one value, or with several (`in`, `nin`)."""

    key: str
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """Combines filters: all must match (`and`), or at least one (`or`)."""

    joint: Joint
    filters: tuple[Filter, ...]


Filter = Comparison | Compound


def parse(raw: Any) -> Filter:
    """Parse a filter from its JSON value.

    Raises:
        Refused: the filter is malformed or too large; `param` is `filters`.
    """
    return _Reader().read(raw, depth=1)


def clause(wanted: Filter) -> ColumnElement[bool]:
    """Whether the current `store_files` row matches; never null, and alike in both databases."""
    if isinstance(wanted, Compound):
        clauses = [clause(one) for one in wanted.filters]
        return and_(true(), *clauses) if wanted.joint == "and" else or_(false(), *clauses)
    if wanted.operator in ("ne", "nin"):
        return not_(or_(false(), *(_compared(wanted.key, "eq", one) for one in wanted.values)))
    operator = "eq" if wanted.operator == "in" else wanted.operator
    return or_(false(), *(_compared(wanted.key, operator, one) for one in wanted.values))


def matches(wanted: Filter, attributes: Mapping[str, Any]) -> bool:
    """Whether attributes match a filter; agrees with `clause`."""
    if isinstance(wanted, Compound):
        each = (matches(one, attributes) for one in wanted.filters)
        return all(each) if wanted.joint == "and" else any(each)
    if wanted.operator in ("ne", "nin"):
        return not any(_holds(attributes, wanted.key, "eq", one) for one in wanted.values)
    operator = "eq" if wanted.operator == "in" else wanted.operator
    return any(_holds(attributes, wanted.key, operator, one) for one in wanted.values)


def _holds(attributes: Mapping[str, Any], key: str, operator: str, value: Value) -> bool:
    found = attributes.get(key)
    if found is None or _kind(found) != _kind(value):
        return False
    # Strings are compared by code points, which is also the order of their UTF-8 bytes.
    left, right = (found, value) if isinstance(value, str) else (float(found), float(value))
    return bool(_COMPARE[operator](left, right))


_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operators.eq,
    "gt": operators.gt,
    "gte": operators.ge,
    "lt": operators.lt,
    "lte": operators.le,
}
"""Operators work on values, and on columns with values."""


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def _compared(key: str, operator: str, value: Value) -> ColumnElement[bool]:
    kind = _kind(value)
    attribute = StoreFile.attributes, literal(key, String())
    found = _VALUES[kind](*attribute)
    # The kind is tested first: casting a value of another kind fails.
    return case(
        (_KindOf(*attribute).in_(_KINDS[kind]), _COMPARE[operator](found, value)), else_=false()
    )


_KINDS: Mapping[Kind, tuple[str, ...]] = {
    "text": ("text", "string"),
    "truth": ("true", "false", "boolean"),
    "number": ("integer", "real", "number"),
}
"""Names of JSON types in SQLite and PostgreSQL."""


class _KindOf(FunctionElement[str]):
    """The kind of an attribute in the database's own terms; null if it does not exist."""

    name = "attribute_kind"
    type = String()
    inherit_cache = True


class _TextOf(FunctionElement[str]):
    """An attribute as a string, ordered by code points."""

    name = "attribute_text"
    type = String()
    inherit_cache = True


class _NumberOf(FunctionElement[float]):
    """An attribute as a number."""

    name = "attribute_number"
    type = Float()
    inherit_cache = True


class _TruthOf(FunctionElement[bool]):
    """An attribute as a boolean."""

    name = "attribute_truth"
    type = Boolean()
    inherit_cache = True


_VALUES: Mapping[Kind, type[FunctionElement[Any]]] = {
    "text": _TextOf,
    "truth": _TruthOf,
    "number": _NumberOf,
}

# A JSON path would treat some keys as syntax, so SQLite looks through the pairs.
_IN_SQLITE = {
    _KindOf: "(SELECT type FROM json_each({}) WHERE key = {})",
    _TextOf: "(SELECT atom FROM json_each({}) WHERE key = {})",
    _NumberOf: "(SELECT CAST(atom AS REAL) FROM json_each({}) WHERE key = {})",
    _TruthOf: "(SELECT atom FROM json_each({}) WHERE key = {})",
}
_IN_POSTGRESQL = {
    _KindOf: "json_typeof({} -> {})",
    _TextOf: '(({} ->> {}) COLLATE "C")',
    _NumberOf: "CAST({} ->> {} AS double precision)",
    _TruthOf: "CAST({} ->> {} AS boolean)",
}


def _register() -> None:
    """Register the SQL of the functions with the compiler of each database."""
    for dialect, written in (("sqlite", _IN_SQLITE), ("postgresql", _IN_POSTGRESQL)):
        for function, template in written.items():
            compiles(function, dialect)(partial(_compiled, template))


def _compiled(template: str, element: FunctionElement[Any], compiler: Any, **options: Any) -> str:
    return template.format(*(compiler.process(one, **options) for one in element.clauses))


_register()


class _Reader:
    """Parses one filter and counts its conditions."""

    def __init__(self) -> None:
        self._nodes = 0

    def read(self, raw: Any, *, depth: int) -> Filter:
        """See `parse`."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _refused(f"nest at most {MAX_DEPTH} deep and hold at most {MAX_NODES} conditions")
        if not isinstance(raw, Mapping):
            raise _refused("must be objects")
        kind = str(raw.get("type"))
        if kind in get_args(Joint):
            return Compound(cast("Joint", kind), self._parts(raw.get("filters"), depth))
        if kind not in get_args(Operator):
            raise _refused(f"have a type of {', '.join((*get_args(Operator), 'and', 'or'))}")
        key = raw.get("key")
        if not isinstance(key, str) or not 0 < len(key) <= 64 or "\x00" in key:
            raise _refused("have a key of 1 to 64 characters")
        return Comparison(key, cast("Operator", kind), _values(kind, raw.get("value")))

    def _parts(self, raw: Any, depth: int) -> tuple[Filter, ...]:
        if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
            raise _refused("have a list of filters beside and and or")
        return tuple(self.read(one, depth=depth + 1) for one in raw)


def _values(operator: str, raw: Any) -> tuple[Value, ...]:
    if operator not in ("in", "nin"):
        return (_value(operator, raw),)
    if not isinstance(raw, Sequence) or isinstance(raw, str) or len(raw) > MAX_VALUES:
        raise _refused(f"have a list of at most {MAX_VALUES} values beside in and nin")
    return tuple(_value(operator, one) for one in raw)


def _value(operator: str, raw: Any) -> Value:
    usable = isinstance(raw, str | bool | int | float)
    if not usable or (isinstance(raw, float) and not math.isfinite(raw)):
        raise _refused("have a string, a number or a boolean as value")
    if isinstance(raw, bool) and operator in _ORDERS:
        raise _refused("cannot order booleans")
    if isinstance(raw, str) and "\x00" in raw:
        raise _refused("have values without NUL")
    return raw if isinstance(raw, str | bool) else float(raw)


def _refused(why: str) -> Refused:
    return Refused(f"Filters {why}.", param="filters")
