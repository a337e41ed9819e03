"""A detector that finds given words everywhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

from serving.privacy.spans import Detector, DetectorUnavailable, EntityType, Span, merged


class KnownWords(Detector):
    """Finds words; counts its calls."""

    def __init__(self, words: Mapping[str, EntityType]) -> None:
        self.words = words
        self.calls: list[list[str]] = []

    def find(self, text: str) -> list[Span]:
        return merged(
            Span(found.start(), found.end(), entity, 0.9)
            for word, entity in self.words.items()
            for found in re.finditer(re.escape(word), text)
        )

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        self.calls.append(list(texts))
        return [self.find(text) for text in texts]


class Stuck(Detector):
    """A detector that never answers."""

    async def detect(self, _: Sequence[str]) -> list[list[Span]]:
        await asyncio.Event().wait()
        return []


class Down(Detector):
    """A detector that fails."""

    async def detect(self, _: Sequence[str]) -> list[list[Span]]:
        raise DetectorUnavailable("down")


class Answering(Detector):
    """A detector that always gives the same answer."""

    def __init__(self, *answer: list[Span]) -> None:
        self.answer = list(answer)

    async def detect(self, _: Sequence[str]) -> list[list[Span]]:
        return self.answer
