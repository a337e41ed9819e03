"""Valid names of tenants, keys and models. None needs quoting in a path, a table or CSV."""

from __future__ import annotations

import re

from serving.access.errors import InvalidName

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Pattern of the name of a tenant or a key."""

MODEL = r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}"
"""Pattern of a model's id, as the catalogue has it."""


def is_name(value: str) -> bool:
    """Whether a tenant or a key may be called that; nothing else need be looked for."""
    return re.fullmatch(NAME, value) is not None


def check_name(what: str, value: str) -> str:
    """The name of a tenant or a key. Raises `InvalidName`."""
    return _check(NAME, what, value)


def check_model(value: str) -> str:
    """The name of a model. Raises `InvalidName`."""
    return _check(MODEL, "model", value)


def _check(pattern: str, what: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise InvalidName(f"the {what} {value[:140]!r} does not match ^{pattern}$")
    return value
