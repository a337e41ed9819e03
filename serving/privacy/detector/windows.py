"""Long texts in windows that overlap, so that the models' memory and time have a bound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from serving.privacy.spans import Span

WINDOW = 2_000
"""Characters, at most. Models look a few words to each side; a page is more than they use."""

OVERLAP = 250
"""Characters that two neighbours share: what is cut at the end of one is whole in the next."""

_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A piece of the text at `index`, which begins there at `start`."""

    index: int
    start: int
    text: str

    def in_text(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Spans of this window, as they lie in the whole text."""
        for span in spans:
            yield replace(span, start=span.start + self.start, end=span.end + self.start)


def windows_of(texts: Sequence[str]) -> list[TextWindow]:
    """Windows over all texts, in order; none over a text without a letter or digit."""
    return [
        TextWindow(index, start, text[start:end])
        for index, text in enumerate(texts)
        for start, end in _cuts(text)
        if any(map(str.isalnum, text[start:end]))
    ]


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """Bounds of windows, at spaces where there are any."""
    start = 0
    while len(text) - start > WINDOW:
        end = _after_space(text, start + WINDOW - OVERLAP // 2, start + WINDOW)
        yield start, end
        start = _after_space(text, end - OVERLAP, end - OVERLAP // 2)
    yield start, len(text)


def _after_space(text: str, low: int, high: int) -> int:
    """The first place in `low` to `high` that follows a space; `high` without one."""
    space = _SPACE.search(text, low, high)
    return space.end() if space else high
