"""Fakes for searches: stores with generations, and an index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rag.errors import NotThere
from rag.index.protocols import Collection, Generation
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits, LexicalRequest, SearchRequest
from rag.stores.access_lists import Reader
from serving.retrieval.searching import Index, Stores
from tests.serving.fakes import DIMENSION


def generation(
    store_id: str, number: int = 1, *, model: str = "embed", dimension: int = DIMENSION
) -> Generation:
    name = f"{store_id}-{number}"
    return Generation(
        name, store_id, "acme", Collection("acme", name), model, "rev", dimension, b""
    )


class FakeStores(Stores):
    """Returns given generations; several of one store are returned in turn."""

    def __init__(self, *generations: Generation) -> None:
        self.kept: dict[str, list[Generation]] = {}
        for one in generations or (generation("vs_1"),):
            self.kept.setdefault(one.store_id, []).append(one)
        self.readers: list[Reader] = []
        self.wait: asyncio.Event | None = None
        self.error: Exception | None = None

    async def generations(self, reader: Reader, store_ids: Sequence[str]) -> list[Generation]:
        self.readers.append(reader)
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        return [self._next(store_id) for store_id in store_ids]

    def _next(self, store_id: str) -> Generation:
        if store_id not in self.kept:
            raise NotThere("No such vector store.")
        kept = self.kept[store_id]
        return kept.pop(0) if len(kept) > 1 else kept[0]


Step = Sequence[Passage] | Exception | asyncio.Event | float


@dataclass
class FakeIndex(Index):
    """Answers each search with the next step; the last one repeats. Numbers are seconds.

    Full text answers by `words`; None: it finds nothing.
    """

    steps: list[Step] = field(default_factory=lambda: [[]])
    requests: list[SearchRequest] = field(default_factory=list)
    words: Sequence[LexicalHits] | Exception | asyncio.Event | None = None
    asked: list[LexicalRequest] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0

    @classmethod
    def of(cls, *steps: Step) -> FakeIndex:
        return cls(list(steps))

    @classmethod
    def holding(cls, *passages: Passage) -> FakeIndex:
        return cls([passages])

    async def lexical(self, request: LexicalRequest) -> Sequence[LexicalHits]:
        self.asked.append(request)
        self.open += 1
        self.began.set()
        try:
            if isinstance(self.words, Exception):
                raise self.words
            if isinstance(self.words, asyncio.Event):
                await self.words.wait()
        finally:
            self.open -= 1
        return self.words if isinstance(self.words, list) else [[] for _ in request.texts]

    async def search(self, request: SearchRequest) -> Sequence[Passage]:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
            return []
        if isinstance(step, float):
            await asyncio.sleep(step)
            return []
        return step
