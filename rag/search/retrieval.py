"""Retrieval: finds the passages in vector stores that answer a reader's question, best first.

Full-text search runs separately, before the question has a vector. Both indexes rank only what SQL
lets the reader find, and SQL confirms their results before they are fused. Results that are not
confirmed use up no ranks.
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
from rag.database import SqlDatabase
from rag.errors import IndexUnavailable
from rag.index.protocols import Generation, TextIndex, VectorHit, VectorIndex
from rag.schema import IndexGeneration
from rag.search.fusion import RankedChunks, Weights, fused, in_order
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits
from rag.stores.access_lists import Reader
from rag.stores.visibility import Searchable, Visible, searchable, visible

CANDIDATES = (100, 200)
"""Minimum and maximum candidates of each index; in between, twice the limit. On Cranfield, 100 more
candidates find 1% more relevant documents among the first 100, and 300 more find no others."""

RERANKED = 30
"""Number of the best passages that are reranked, unless more are requested."""

BOTH = Weights()


@dataclass(frozen=True, slots=True)
class Question:
    """A full-text query on vector stores; see `Query`."""

    reader: Reader
    generations: Sequence[Generation]
    text: str
    limit: int
    filters: ColumnElement[bool] | None = None

    @property
    def depth(self) -> int:
        """Maximum chunks of each store."""
        return _depth(self.limit)


@dataclass(frozen=True, slots=True)
class Query:
    """A query on vector stores that share one embedder.

    Attributes:
        reader: the caller.
        generations: the generations to search, one of each store.
        text: the question.
        vector: the question's vector, `(dimension,)` float32, L2-normalised.
        limit: maximum passages.
        filters: a condition on `store_files` rows, from `rag.search.filters.clause`.
        threshold: minimum score of a passage.
        weights: weights of both kinds of search; weight 0 disables one.
        rerank: whether to rerank the best passages, if there is a reranker.
        lexical: results of `Retriever.lexical`, which SQL confirms; empty without full-text search.
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
        """The full-text part of the query."""
        return Question(self.reader, self.generations, self.text, self.limit, self.filters)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages, best first, and the best cosine of all confirmed candidates, None without any."""

    passages: list[Passage]
    best_cosine: float | None


@dataclass(frozen=True, slots=True)
class _Hits:
    """Index results, best first: chunks by meaning, and chunks by words for each store."""

    dense: Sequence[VectorHit]
    lexical: LexicalHits


class Retriever:
    """Searches vector stores.

    Args:
        database: the source of truth for permissions.
        vectors: the vector index.
        text: the full-text index.
        reranker: rescores the best passages; None keeps the fused ranking.
        clock: returns Unix seconds.
        timeout_s: deadline of one search in seconds.
    """

    def __init__(
        self,
        database: SqlDatabase,
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
        """Search the full text of each store, for `Query.lexical`.

        Raises:
            IndexUnavailable: the index did not answer in time.
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

    async def search(self, query: Query) -> SearchResult:
        """Return the passages that answer a question. Unconfirmed results are left out.

        Raises:
            IndexUnavailable: an index did not answer in time.
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

    async def _search(self, query: Query) -> SearchResult:
        hits = _Hits(await self._by_meaning(query), query.lexical)
        chunks = await self._confirmed(query, hits)
        cosines = _cosines(hits, chunks)
        scores = await self._reranked(query, chunks, _scores(query, hits, chunks, cosines))
        best = [chunk for chunk in in_order(scores, cosines) if scores[chunk] >= query.threshold]
        passages = [
            chunks[chunk].passage(score=scores[chunk], cosine=cosines.get(chunk))
            for chunk in best[: query.limit]
        ]
        return SearchResult(passages, max(cosines.values(), default=None))

    async def _by_meaning(self, query: Query) -> list[VectorHit]:
        """Search by vector among the files that the reader may find."""
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
        """Return the searchable stores by generation.

        Raises:
            IndexUnavailable: a generation no longer exists.
        """
        generations = [one.id for one in asked.generations]
        stores = await searchable(
            session, asked.reader, generations, asked.filters, now=self._clock()
        )
        await _refuse_gone(session, asked.generations, stores)
        return stores

    async def _confirmed(self, query: Query, hits: _Hits) -> dict[int, Visible]:
        """Return the chunks that the reader may see, by chunk id."""
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
        """Rescore the best chunks and drop the rest; without a reranker, return `scores`."""
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
    """Distinguish a generation that was removed from one in which the reader may find nothing.

    Raises:
        IndexUnavailable: a generation was removed after the request began.
    """
    missing = [one.id for one in generations if one.id not in found]
    if not missing:
        return
    there = await session.scalars(select(IndexGeneration.id).where(IndexGeneration.id.in_(missing)))
    if len(there.all()) < len(missing):
        raise IndexUnavailable("The vectors of a store were replaced; please try again.")


def _cosines(hits: _Hits, chunks: Mapping[int, Visible]) -> dict[int, float]:
    """Return cosines of confirmed chunks, best first."""
    by_key = {chunk.key: chunk.chunk_id for chunk in chunks.values()}
    return {by_key[hit.key]: hit.cosine for hit in hits.dense if hit.key in by_key}


def _scores(
    query: Query, hits: _Hits, chunks: Mapping[int, Visible], cosines: Mapping[int, float]
) -> dict[int, float]:
    """Return fused scores of confirmed chunks, best first."""
    weights = query.weights
    dense = RankedChunks(weights.embedding, list(cosines))
    lexical = [
        RankedChunks(weights.text, [chunk for chunk in of_store if chunk in chunks])
        for of_store in hits.lexical
    ]
    scores = fused([dense, *lexical], total=weights.embedding + weights.text)
    return {chunk: scores[chunk] for chunk in in_order(scores, cosines)}
