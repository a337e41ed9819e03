"""Mistakes in a configuration, each told in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has one sentence for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def problems_of(error: ValidationError, settings: type[BaseModel]) -> list[str]:
    """Return one sentence for each mistake that Pydantic found in the groups of `settings`."""
    rows = [dict(item) for item in error.errors()]
    real = [row for row in rows if row["type"] != "too_short"]  # Bad entries also leave it short.
    return [_sentence(row, settings) for row in real or rows]


def _sentence(error: dict[str, Any], settings: type[BaseModel]) -> str:
    where = _dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(str(error["loc"][-1]), _fields(error["loc"], settings))
        return f"{where}: unknown key{hint}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}".lstrip(": ")


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _fields(loc: tuple[int | str, ...], settings: type[BaseModel]) -> list[str]:
    """Names of the fields beside the one at `loc`."""
    group: Any = settings
    for part in loc[:-1]:
        if not isinstance(part, str) or part not in getattr(group, "model_fields", {}):
            continue
        annotation = group.model_fields[part].annotation
        found = [a for a in (annotation, *_arguments(annotation)) if hasattr(a, "model_fields")]
        group = found[0] if found else None
    fields = getattr(group, "model_fields", {})
    return [name for name, field in fields.items() if not field.exclude]


def _arguments(annotation: Any) -> list[Any]:
    inner = list(get_args(annotation))
    return inner + [deep for one in inner for deep in _arguments(one)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is most like this one; empty if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
