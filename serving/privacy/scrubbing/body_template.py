"""Templates: a request body with holes where its texts were, to be filled with other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.privacy.json_text import decoded, encoded
from serving.privacy.refusals import Unscrubbable

Treatment = Literal["text", "number", "id"]
Texts = Sequence[str]
"""One text for each position."""

Context = tuple[str | int, ...]
"""Text that is read but stays, and the positions that stand in it, in order."""


@dataclass(frozen=True, slots=True)
class Position:
    """A text of a request. A number is replaced as a whole or not at all, an id always."""

    text: str = field(repr=False)
    treatment: Treatment = "text"


@dataclass(frozen=True, slots=True)
class Hole:
    """Stands for the text of a position."""

    at: int

    def filled(self, texts: Texts) -> str:
        """Return the text of this position."""
        return texts[self.at]


@dataclass(frozen=True, slots=True)
class NumberHole:
    """Stands for a number; it stays one unless its text is replaced."""

    at: int
    literal: str = field(repr=False)
    number: float = field(repr=False)

    def filled(self, texts: Texts) -> float | str:
        """The number, or what stands for it."""
        return self.number if texts[self.at] == self.literal else texts[self.at]


@dataclass(frozen=True, slots=True)
class Pointer:
    """Stands for a JSON pointer, whose segments are keys that may be scrubbed elsewhere."""

    segments: tuple[Any, ...] = field(repr=False)

    def filled(self, texts: Texts) -> str:
        """The pointer to where those keys are now."""
        return "/".join(filled(one, texts) for one in self.segments)


@dataclass(frozen=True, slots=True)
class EmbeddedJson:
    """Stands for text that is JSON: its pieces as written, some with a node that may rewrite it."""

    pieces: tuple[tuple[str, Any], ...] = field(repr=False)

    def filled(self, texts: Texts) -> str:
        """JSON again; what did not change is as it was written."""
        return "".join(_rewritten(raw, node, texts) for raw, node in self.pieces)


@dataclass(frozen=True, slots=True)
class Template:
    """A body with holes.

    `positions` are its texts in order. `units` hold each of them once: positions of one unit are
    the text parts of one message, which may cut a value in two. `contexts` are JSON documents.
    """

    tree: Any = field(repr=False)
    positions: tuple[Position, ...]
    units: tuple[tuple[int, ...], ...]
    contexts: tuple[Context, ...] = field(repr=False)

    def filled(self, texts: Texts) -> dict[str, Any]:
        """The body with a text for each position.

        Raises:
            Unscrubbable: two keys of one object became the same.
        """
        body: dict[str, Any] = filled(self.tree, texts)
        return body


def filled(node: Any, texts: Texts) -> Any:
    """Fill a node of a template."""
    if isinstance(node, Hole | NumberHole | Pointer | EmbeddedJson):
        return node.filled(texts)
    if isinstance(node, list):
        return [filled(one, texts) for one in node]
    if not isinstance(node, dict):
        return node
    made = {filled(key, texts): filled(one, texts) for key, one in node.items()}
    if len(made) < len(node):
        raise Unscrubbable("Two keys of one object differ in personal data only.")
    return made


def _rewritten(raw: str, node: Any, texts: Texts) -> str:
    if node is None:
        return raw
    text: str = filled(node, texts)
    before = decoded(raw) if raw.startswith('"') else raw
    return raw if text == before else encoded(text)
