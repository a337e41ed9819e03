"""Retrieval: the passages of vector stores that answer a question, for one reader, best first.

Full text is searched on its own, before the question has a vector.
Both indexes rank only what SQL lets the reader find, and SQL confirms what they found before it is
ranked together. What is not confirmed takes nobody's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.embedding.reranker import Reranker
from rag.database import Database
from rag.errors import IndexUnavailable
from rag.index.protocols import Generation, TextIndex, VectorHit, VectorIndex
from rag.schema import IndexGeneration
from rag.search.fusion import Ranking, Weights, fused, in_order
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits
from rag.stores.access_lists import Reader
from rag.stores.visibility import Searchable, Visible, searchable, visible

CANDIDATES = (100, 200)
"""Of each index, at least and at most; between them twice what is asked for. On Cranfield 100 more
of them find one more relevant document in a hundred among the first 100, and 300 no more."""

RERANKED = 30
"""Of the best passages, as many are looked at again, or all that are asked for."""

BOTH = Weights()


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the full text of vector stores; see `Query`."""

    reader: Reader
    generations: Sequence[Generation]
    text: str
    limit: int
    filters: ColumnElement[bool] | None = None

    @property
    def depth(self) -> int:
        """Chunks of each store at most."""
        return _depth(self.limit)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to vector stores, all of which have one embedder.

    Attributes:
        reader: On whose behalf.
        generations: What is searched; one of each store.
        text: Of the question.
        vector: Of the question, `(dimension,)` float32, L2-normalised.
        limit: Passages at most.
        filters: What must be true of a `store_files` row, as `rag.search.filters.clause` tells it.
        threshold: A passage's score at least.
        weights: Of both kinds of search; one of weight 0 is left out.
        rerank: Whether the reranker looks at the best again, where there is one.
        lexical: What `Retriever.lexical` found; SQL confirms it. None of it without words.
    """

    reader: Reader
    generations: Sequence[Generation]
    text: str
    vector: NDArray[np.float32]
    limit: int
    filters: ColumnElement[bool] | None = None
    threshold: float = 0.0
    weights: Weights = BOTH
    rerank: bool = True
    lexical: LexicalHits = ()

    @property
    def depth(self) -> int:
        """Candidates of each index."""
        return _depth(self.limit)

    @property
    def question(self) -> Question:
        """It as full text is asked."""
        return Question(self.reader, self.generations, self.text, self.limit, self.filters)


@dataclass(frozen=True, slots=True)
class Found:
    """Passages, best first; and the best cosine of all that might have been, None without any."""

    passages: list[Passage]
    best_cosine: float | None


@dataclass(frozen=True, slots=True)
class _Hits:
    """What the indexes found: chunks by meaning, and by words in each store. Best first."""

    dense: Sequence[VectorHit]
    lexical: LexicalHits


class Retriever:
    """Searches vector stores.

    Args:
        database: SQL, which has the last word.
        vectors: search by meaning.
        text: search by words.
        reranker: looks at the best again; None: their fused places stand.
        clock: Unix seconds.
        timeout_s: for one search.
    """

    def __init__(
        self,
        database: Database,
        vectors: VectorIndex,
        text: TextIndex,
        reranker: Reranker | None = None,
        *,
        clock: Callable[[], float],
        timeout_s: float = 10.0,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._text = text
        self._reranker = reranker
        self._clock = clock
        self._timeout_s = timeout_s

    async def lexical(self, question: Question) -> list[list[int]]:
        """What full text finds among what may be found, for `Query.lexical`.

        Raises:
            IndexUnavailable: it does not answer, or not in time.
        """
        async with self._limit(), self._database.session() as session:
            stores = await self._searchable(session, question)
            return [
                [
                    hit.chunk_id
                    for hit in await self._text.search(
                        session, store.number, question.text,
                        limit=question.depth, files=store.files,
                    )
                ]
                for store in stores.values()
            ]  # fmt: skip

    async def search(self, query: Query) -> Found:
        """The passages that answer a question; none of what cannot be confirmed.

        Raises:
            IndexUnavailable: an index does not answer, or not in time.
            EngineError: the reranker failed.
        """
        async with self._limit():
            return await self._search(query)

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise IndexUnavailable("The search took too long; please try again.") from None

    async def _search(self, query: Query) -> Found:
        hits = _Hits(await self._by_meaning(query), query.lexical)
        chunks = await self._confirmed(query, hits)
        cosines = _cosines(hits, chunks)
        scores = await self._reranked(query, chunks, _scores(query, hits, chunks, cosines))
        best = [chunk for chunk in in_order(scores, cosines) if scores[chunk] >= query.threshold]
        passages = [
            chunks[chunk].passage(score=scores[chunk], cosine=cosines.get(chunk))
            for chunk in best[: query.limit]
        ]
        return Found(passages, max(cosines.values(), default=None))

    async def _by_meaning(self, query: Query) -> list[VectorHit]:
        """What vectors find among what may be found."""
        async with self._database.session() as session:
            stores = await self._searchable(session, query)
        if query.weights.embedding == 0:
            return []
        searches = [
            self._vectors.search(
                one.collection, query.vector, limit=query.depth, files=stores[one.id].files
            )
            for one in query.generations
            if one.id in stores
        ]
        hits = [hit for found in await asyncio.gather(*searches) for hit in found]
        return sorted(hits, key=lambda hit: -hit.cosine)[: query.depth]

    async def _searchable(
        self, session: AsyncSession, asked: Question | Query
    ) -> dict[str, Searchable]:
        """What may be found, by generation.

        Raises:
            IndexUnavailable: a generation is gone.
        """
        generations = [one.id for one in asked.generations]
        stores = await searchable(
            session, asked.reader, generations, asked.filters, now=self._clock()
        )
        await _refuse_gone(session, asked.generations, stores)
        return stores

    async def _confirmed(self, query: Query, hits: _Hits) -> dict[int, Visible]:
        """What the reader may see of it, by chunk id."""
        keys = [hit.key for hit in hits.dense]
        chunk_ids = [chunk for of_store in hits.lexical for chunk in of_store]
        if not keys and not chunk_ids:
            return {}
        async with self._database.session() as session:
            found = await visible(
                session,
                query.reader,
                [one.store_id for one in query.generations],
                query.filters,
                keys=keys,
                chunk_ids=chunk_ids,
                now=self._clock(),
            )
        return {chunk.chunk_id: chunk for chunk in found}

    async def _reranked(
        self, query: Query, chunks: Mapping[int, Visible], scores: dict[int, float]
    ) -> dict[int, float]:
        """The reranker's scores of the best, and of nothing else; or those there are."""
        if self._reranker is None or not query.rerank or not scores:
            return scores
        best = list(scores)[: max(RERANKED, query.limit)]
        texts = [chunks[chunk].text for chunk in best]
        again = await self._reranker.rerank(query.text, texts)
        return dict(zip(best, again, strict=True))


def _depth(limit: int) -> int:
    least, most = CANDIDATES
    return min(max(2 * limit, least), most)


async def _refuse_gone(
    session: AsyncSession, generations: Sequence[Generation], found: Collection[str]
) -> None:
    """Tell vectors that were given up from those in which there is nothing to find.

    Raises:
        IndexUnavailable: some were given up, since they were asked for.
    """
    missing = [one.id for one in generations if one.id not in found]
    if not missing:
        return
    there = await session.scalars(select(IndexGeneration.id).where(IndexGeneration.id.in_(missing)))
    if len(there.all()) < len(missing):
        raise IndexUnavailable("The vectors of a store were replaced; please try again.")


def _cosines(hits: _Hits, chunks: Mapping[int, Visible]) -> dict[int, float]:
    """Cosines of confirmed chunks, best first."""
    by_key = {chunk.key: chunk.chunk_id for chunk in chunks.values()}
    return {by_key[hit.key]: hit.cosine for hit in hits.dense if hit.key in by_key}


def _scores(
    query: Query, hits: _Hits, chunks: Mapping[int, Visible], cosines: Mapping[int, float]
) -> dict[int, float]:
    """Fused scores of confirmed chunks, best first."""
    weights = query.weights
    dense = Ranking(weights.embedding, list(cosines))
    lexical = [
        Ranking(weights.text, [chunk for chunk in of_store if chunk in chunks])
        for of_store in hits.lexical
    ]
    scores = fused([dense, *lexical], total=weights.embedding + weights.text)
    return {chunk: scores[chunk] for chunk in in_order(scores, cosines)}
