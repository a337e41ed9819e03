"""The texts of a request: every string, number and key of its body but the protocol's own.

The walk knows what to leave alone (`protocol_words`), not what to look at, so that a field which
OpenAI adds tomorrow is scrubbed too. Knows nothing of detectors or pseudonyms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from serving.privacy.json_text import decoded, parsed, tokens
from serving.privacy.refusals import Unscrubbable
from serving.privacy.scrubbing.body_template import (
    Context,
    EmbeddedJson,
    Hole,
    NumberHole,
    Pointer,
    Position,
    Template,
    Treatment,
)
from serving.privacy.scrubbing.protocol_words import (
    BOUNDS,
    FILE_PARTS,
    FILE_TEXT_KEYS,
    FUNCTION_NAMES,
    IDS,
    MODEL,
    NUMBERS,
    PARTS,
    SOUND,
    TEXT_PARTS,
    TOKENS,
    WORDS,
    Path,
)

MAX_DEPTH = 100
MIN_DIGITS = 6
"""A number with fewer says nothing about anybody on its own."""

_ENCODED = re.compile(
    r"data:[^\s,]{0,200};base64,|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{1000}", re.IGNORECASE
)
"""Matches base64, by its name or its length: nobody can say what is in it."""
_IDENTIFIER = re.compile(r"(?!.*[0-9]{6})[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TOKEN_ID = re.compile(r"[0-9]{1,7}")


def template(body: Mapping[str, Any]) -> Template:
    """Find every text of an OpenAI request body.

    Raises:
        Unscrubbable: images, sound, files, token ids, or what is nested too deeply.
    """
    walk = _Walk()
    tree = walk.node(dict(body), ())
    joined = {at for unit in walk.units for at in unit}
    singles = [(at,) for at in range(len(walk.positions)) if at not in joined]
    units = sorted((*walk.units, *singles))
    return Template(tree, tuple(walk.positions), tuple(units), tuple(walk.contexts))


class _Walk:
    """A walk over a body, depth first."""

    def __init__(self) -> None:
        self.positions: list[Position] = []
        self.units: list[tuple[int, ...]] = []
        self.contexts: list[Context] = []

    def node(self, value: Any, path: Path) -> Any:
        """The value with its texts replaced by holes."""
        if value is None or isinstance(value, bool):
            return value
        if len(path) > MAX_DEPTH or path in SOUND:
            raise Unscrubbable("The request holds sound, or is nested too deeply to be scrubbed.")
        if isinstance(value, str):
            return self._string(value, path)
        if isinstance(value, int | float):
            return self._number(value, path)
        if isinstance(value, list):
            return self._list(value, (*path, "*"))
        if isinstance(value, dict):
            return self._object(value, path)
        raise Unscrubbable("The request holds a value that is not JSON.")

    def _list(self, values: list[Any], path: Path) -> list[Any]:
        nodes = [self.node(one, path) for one in values]
        if path in PARTS:
            texts = [part.get("text") for part in nodes if isinstance(part, dict)]
            unit = tuple(text.at for text in texts if isinstance(text, Hole))
            self.units += [unit] if len(unit) > 1 else []
        return nodes

    def _object(self, value: dict[str, Any], path: Path) -> dict[Any, Any]:
        if path == ("logit_bias",):
            return _checked_biases(value)
        if path in PARTS:
            _check_part(value)
        return {self._text(key): self.node(one, (*path, key)) for key, one in value.items()}

    def _string(self, value: str, path: Path) -> Any:
        if path == MODEL or (path in FUNCTION_NAMES and _IDENTIFIER.fullmatch(value)):
            return value
        if path in IDS:
            return self._hole(value, "id")
        if path[-1:] == ("$ref",) and value.startswith("#/"):
            return Pointer(tuple(map(self._text, value.split("/"))))
        return self._text(value)

    def _text(self, text: str) -> Any:
        if text in WORDS or not text.strip():
            return text
        if _ENCODED.search(text):
            raise Unscrubbable("The request holds encoded data, which cannot be scrubbed.")
        return self._hole(text, "text") if parsed(text) is None else self._document(text)

    def _number(self, value: float, path: Path) -> Any:
        if path in TOKENS:
            raise Unscrubbable("Token ids cannot be scrubbed; send text.")
        if len(path) == 1 and path[0] in NUMBERS:
            return value
        whole = isinstance(value, float) and value.is_integer()
        literal = f"{value:.0f}" if whole else str(value)
        if not _may_be_personal(literal):
            return value
        return NumberHole(self._hole(literal, "number").at, literal, value)

    def _document(self, text: str) -> EmbeddedJson:
        pieces: list[tuple[str, Any]] = []
        context: list[str | int] = []
        for kind, raw in tokens(text):
            node = self._piece(kind, raw)
            pieces.append((raw, node))
            # A key is read alone, as in a schema, or it would not be the same here and there.
            context.append(node.at if isinstance(node, Hole) and kind != "key" else raw)
        self.contexts.append(tuple(context))
        return EmbeddedJson(tuple(pieces))

    def _piece(self, kind: str, raw: str) -> Any:
        if kind == "number":
            return self._hole(raw, "number") if _may_be_personal(raw) else None
        if kind in {"text", "key"}:
            node = self._text(decoded(raw))
            return None if isinstance(node, str) else node
        return None

    def _hole(self, text: str, treatment: Treatment) -> Hole:
        self.positions.append(Position(text, treatment))
        return Hole(len(self.positions) - 1)


def _may_be_personal(literal: str) -> bool:
    if sum(char.isdigit() for char in literal) < MIN_DIGITS:
        return False
    return not (literal.lstrip("-").isdigit() and int(literal) in BOUNDS)


def _checked_biases(biases: dict[str, Any]) -> dict[str, Any]:
    numbers = (type(one) in {int, float} for one in biases.values())
    if not (all(map(_TOKEN_ID.fullmatch, biases)) and all(numbers)):
        raise Unscrubbable("logit_bias takes token ids and numbers only.")
    return biases


def _check_part(part: dict[str, Any]) -> None:
    kind = part.get("type")
    inner = [one for one in part.values() if isinstance(one, dict)]
    if kind in FILE_PARTS and FILE_TEXT_KEYS.issuperset(chain(part, *inner)):
        return
    if kind not in TEXT_PARTS:
        raise Unscrubbable("A message holds an image, sound or a file; only text can be scrubbed.")
