"""JSON inside text: where its strings and numbers are, so that they change and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from serving.privacy.refusals import Unscrubbable

_TOKEN = re.compile(
    r'(?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")(?P<key>\s*+:)?'
    r"|(?P<number>-?\d++(?:\.\d++)?+(?:[eE][+-]?\d++)?+)",
    re.DOTALL,
)
_ENDS = {"{": "}", "[": "]", '"': '"'}
_UNIT = re.compile(
    r"(?P<plain>[^\\]+)"
    r"|\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\u(?P<code>[0-9a-fA-F]{4})|(?P<cut>\\(?:u[0-9a-fA-F]{0,3})?\Z)"
    r"|\\(?P<char>.)",
    re.DOTALL,
)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CODE = re.compile(r"\\u[0-9a-fA-F]{4}")
LONG_NUMBER = 100_000
"""A number from here on may identify somebody."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def _no_number(_: str) -> None:
    """Numbers are not read: one may have too many digits."""


def _in_a_row(pairs: list[tuple[str, Any]]) -> list[Any]:
    """An object as a list: a key may be there twice."""
    return [one for pair in pairs for one in pair]


# The lenient one: what it takes, some provider does too.
_DECODER = json.JSONDecoder(
    strict=False, parse_int=_no_number, parse_float=_no_number, object_pairs_hook=_in_a_row
)


def parsed(text: str) -> Any:
    """The object, array or string that all of a text is as JSON; None if it is none.

    Numbers are left out, and an object is a list of its keys and values.

    Raises:
        Unscrubbable: it is nested too deeply.
    """
    plain = text.strip()
    if len(plain) < 2 or _ENDS.get(plain[0]) != plain[-1]:
        return None
    try:
        return _DECODER.decode(plain)
    except ValueError:
        return None
    except RecursionError:
        raise Unscrubbable("JSON in the request is nested too deeply to be scrubbed.") from None


def tokens(document: str) -> Iterator[tuple[str, str]]:
    """Split a valid document, in order, into `text`, `key`, `number` and anything else, `""`."""
    at = 0
    for found in _TOKEN.finditer(document):
        kind = "number" if found["number"] else "text"
        start, end = found.span(kind)
        yield "", document[at:start]
        yield "key" if found["key"] else kind, document[start:end]
        at = end
    yield "", document[at:]


def decoded(literal: str) -> str:
    """The text of a JSON string, quotes and all."""
    text: str = _DECODER.decode(literal)
    return text


def encoded(text: str) -> str:
    """Text as a JSON string, quotes and all; nothing is escaped that needs not be."""
    return json.dumps(text, ensure_ascii=_SURROGATE.search(text) is not None)


def has_escapes(text: str) -> bool:
    r"""Whether characters are hidden behind their codes, such as `\u00e9`."""
    return "\\u" in text and _CODE.search(text) is not None


def without_escapes(text: str) -> str:
    """Return the meaning of a part of JSON, as text that can be written anywhere."""
    return meant(text)[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def meant(text: str) -> tuple[str, list[int]]:
    """Return the meaning of a part of JSON, and where each character begins in it; last its end.

    An escape that the end cuts is left out. A surrogate without its other half stays one, and what
    is no escape at all is taken as the character behind the backslash.
    """
    chars: list[str] = []
    places: list[int] = []
    for unit in _UNIT.finditer(text):
        if unit["cut"]:
            return "".join(chars), [*places, unit.start()]
        if plain := unit["plain"]:
            chars += plain
            places += range(unit.start(), unit.end())
            continue
        chars.append(_meant(unit))
        places.append(unit.start())
    return "".join(chars), [*places, len(text)]


def _meant(unit: re.Match[str]) -> str:
    """The character that an escape stands for."""
    if high := unit["high"]:
        return bytes.fromhex(high + unit["low"]).decode("utf-16-be")
    code, char = unit["code"], unit["char"]
    return chr(int(code, 16)) if code else _CONTROLS.get(char, char)


def texts(value: Any) -> Iterator[str]:
    """Every text in parsed JSON: keys, values, those of JSON inside them, and long numbers."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
        elif isinstance(one, str):
            yield one
            pending.append(parsed(one))
        elif isinstance(one, int) and abs(one) >= LONG_NUMBER:
            yield str(one)
