"""Our own fields and headers beside OpenAI's: the strictest of repeated values, and no look-alikes.

Unknown fields are ignored, but a misspelt `privacy` must not be: its request could leave.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from serving.domain.errors import InvalidRequest
from serving.domain.privacy_class import CLASSES, strictest
from serving.privacy.patterns.normalised import folded

PRIVACY_FIELD = "privacy"
OWN_FIELDS = (PRIVACY_FIELD, "on_failure", "access")

MAX_UNKNOWN_CHARACTERS = 8192
"""Limit on the names of a body's unknown fields, all together: each of them is compared."""

MAX_SHOWN = 40
"""Most characters of a name that an error repeats: a longer one may be text of a prompt."""

_ONCE = frozenset({"access", "allowed_models", "groups", "role", "user"})
_NESTING = ("extra_body", "extra_headers", "extra_query", "file_search", "stream_options")
"""Objects in which a client may wrongly have put a field of ours."""

_SIMILAR = 0.83
"""Similarity from which a name is taken for `privacy` with a typing error of one letter."""

_WORDS = {name.replace("_", ""): name for name in OWN_FIELDS}


def settled(raw: bytes, body: dict[str, Any], fields: AbstractSet[str]) -> dict[str, Any]:
    """A body in which each of our fields that it repeats has its strictest value.

    Args:
        raw: the valid JSON object that `body` was parsed from.
        body: what a parser makes of it that keeps the last of repeated values.
        fields: names that this kind of body has.

    Raises:
        InvalidRequest: a field is repeated whose values have no order.
    """
    names = [name for name in (*_STRICTEST, *_ONCE) if name in fields]
    if not _may_repeat(raw, names):
        return body
    pairs: Sequence[tuple[str, Any]] = json.loads(
        raw, object_pairs_hook=tuple, parse_int=float, parse_float=float
    )
    for name in names:
        values = [value for key, value in pairs if key == name]
        if len(values) > 1:
            body = body | {name: _of_several(name, values)}
    return body


def refuse_look_alikes(body: Mapping[str, Any], fields: AbstractSet[str]) -> None:
    """Refuse a field that looks like one of ours and would be ignored.

    Raises:
        InvalidRequest: `param` is its name.
    """
    refuse_names((name for name in body if name not in fields), fields)
    for outer in _NESTING:
        inner = body.get(outer)
        if isinstance(inner, dict):
            refuse_names(inner, frozenset(), within=f"{outer}.")


def refuse_names(names: Iterable[str], fields: AbstractSet[str], *, within: str = "") -> None:
    """Refuse ignored names that look like one of ours. See `refuse_look_alikes`."""
    left = MAX_UNKNOWN_CHARACTERS
    for name in names:
        left -= len(name)
        if left < 0:
            raise InvalidRequest(
                "The names of the body's unknown fields have more than "
                f"{MAX_UNKNOWN_CHARACTERS} characters."
            )
        meant = resembled(name)
        if meant is None or (meant not in fields and meant != PRIVACY_FIELD):
            continue
        shown = name if len(name) <= MAX_SHOWN and name.isprintable() else meant
        raise InvalidRequest(_hint(within + shown, meant, fields), param=within + shown)


@lru_cache(maxsize=1024)
def resembled(name: str) -> str | None:
    """Return our field that a name resembles, in any case and spelling; None if there is none."""
    plain = "".join(filter(str.isalnum, folded(unicodedata.normalize("NFKD", name)).casefold()))
    if PRIVACY_FIELD in plain:
        return PRIVACY_FIELD
    close = get_close_matches(plain, _WORDS, n=1, cutoff=_SIMILAR)
    return _WORDS[close[0]] if close else None


def _hint(name: str, meant: str, fields: AbstractSet[str]) -> str:
    if meant in fields:
        return f"{name!r} is no field; the field {meant!r} may be meant."
    return f"{name!r} is no field here, so nothing would come of it."


def _may_repeat(raw: bytes, names: Sequence[str]) -> bool:
    """Whether a name may occur twice. An escaped letter, which nobody needs, may hide one."""
    if any(raw.count(f'"{name}"'.encode()) > 1 for name in names):
        return True
    return any(b"\\u00" + digit in raw for digit in (b"4", b"5", b"6", b"7"))


def _of_several(name: str, values: Sequence[Any]) -> Any:
    if name in _ONCE:
        raise InvalidRequest(f"{name}: stands twice", param=name)
    return _STRICTEST[name](values)


def _strictest_class(values: Sequence[Any]) -> Any:
    """Return the strictest class, or an invalid value, which validation refuses by its name."""
    said = [value for value in values if value is not None]
    wrong = [value for value in said if value not in CLASSES]
    return wrong[0] if wrong else strictest(*said) if said else None


def _most_careful(values: Sequence[Any]) -> Any:
    """`fail` of several, since an answer that goes on may do so at a provider."""
    said = [value for value in values if value is not None]
    wrong = [value for value in said if value not in ("fail", "continue")]
    return wrong[0] if wrong else min(said, key=("fail", "continue").index) if said else None


_STRICTEST: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    PRIVACY_FIELD: _strictest_class,
    "on_failure": _most_careful,
}
