"""Searches on the path of a request: questions are embedded, and `Knowledge` searches.

Full text is searched while the questions are embedded. Knows neither indexes nor SQL. What it
raises is the API's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rag.errors import EmbedderMismatch, IndexUnavailable
from rag.index.protocols import Generation
from rag.search.fusion import Weights
from rag.search.passages import Passage
from rag.search.search_request import LexicalHits, LexicalRequest, SearchRequest
from rag.stores.access_lists import Reader
from serving.domain.calls import Call, RequestOptions
from serving.domain.errors import InvalidRequest
from serving.domain.principal import Principal
from serving.domain.search_call import Ranking, RetrievedPassages, SearchCall
from serving.domain.time_left import TimeLeft
from serving.retrieval.errors import errors_told
from serving.retrieval.query_vectors import QueryVectors

T = TypeVar("T")


class Stores(Protocol):
    """Knows the vector stores."""

    async def generations(self, reader: Reader, store_ids: Sequence[str]) -> Sequence[Generation]:
        """The vectors of each store that are searched now, in the order of `store_ids`.

        Raises:
            NotThere: no such store, or not for this reader.
            DatabaseUnavailable: it cannot be told now.
        """
        ...


class Index(Protocol):
    """Searches vectors and full text, in this process or another one. It has a deadline."""

    async def lexical(self, request: LexicalRequest) -> Sequence[LexicalHits]:
        """Search the full text for each question, for `SearchRequest.lexical`.

        Raises:
            IndexUnavailable: it does not answer, or a generation is not there any more.
            RagError: another reason why it cannot be searched.
        """
        ...

    async def search(self, request: SearchRequest) -> Sequence[Passage]:
        """Passages for all questions together, each once, best first; `request.limit` at most.

        Raises:
            IndexUnavailable: it does not answer, or a generation is not there any more.
            RagError: another reason why it cannot be searched.
            EngineError: the reranker failed.
        """
        ...


class Searching:
    """Searches vector stores.

    Args:
        stores: tells what is searched.
        index: searches.
        vectors: embeds the questions. A key needs no right to the model that does: the operator
            chose it.
    """

    def __init__(self, stores: Stores, index: Index, vectors: QueryVectors) -> None:
        self._stores = stores
        self._index = index
        self._vectors = vectors

    async def search(self, call: SearchCall) -> RetrievedPassages:
        """The passages that the caller may see, best first.

        Raises:
            RingfenceError: a store is not there, the stores do not go together, the search is not
                let in, or it cannot be run now.
            EngineError: the embedder or the reranker failed.
        """
        with errors_told():
            return RetrievedPassages(
                await self._passages(call, TimeLeft(call.options)), call.queries
            )

    async def _passages(self, call: SearchCall, left: TimeLeft) -> Sequence[Passage]:
        """Found in the vectors of now; looked up once more where they are given up meanwhile."""
        generations = await self._generations(call, left)
        try:
            return await self._among(generations, call, left)
        except IndexUnavailable:
            newer = await self._generations(call, left)
            if newer == generations:
                raise
            return await self._among(newer, call, left)

    async def _generations(self, call: SearchCall, left: TimeLeft) -> list[Generation]:
        async with left.limit():
            return list(await self._stores.generations(_reader(call.principal), call.store_ids))

    async def _among(
        self, generations: list[Generation], call: SearchCall, left: TimeLeft
    ) -> Sequence[Passage]:
        vectors, lexical = await self._vectors_and_lexical(generations, call, left)
        for generation in generations:
            if generation.dimension != vectors.shape[1]:
                raise _mismatch(generation, "has another dimension now")
        request = SearchRequest(
            reader=_reader(call.principal),
            generations=generations,
            texts=call.queries,
            vectors=vectors,
            lexical=lexical,
            limit=call.limit,
            filters=call.filters,
            threshold=call.ranking.threshold,
            weights=_weights(call.ranking),
            rerank=call.ranking.ranker != "none",
        )
        async with left.limit():
            return await self._index.search(request)

    async def _vectors_and_lexical(
        self, generations: list[Generation], call: SearchCall, left: TimeLeft
    ) -> tuple[NDArray[np.float32], Sequence[LexicalHits]]:
        """The questions' vectors, and what full text finds for them meanwhile."""
        embedding = _embedding(call, self._embedder(generations), left.options())
        let_in = asyncio.Event()
        async with _beside(self._lexical(generations, call, left, let_in)) as lexical:
            vectors, _ = await self._vectors.of(embedding, call.queries, let_in=let_in)
            return vectors, await lexical

    async def _lexical(
        self, generations: list[Generation], call: SearchCall, left: TimeLeft, let_in: asyncio.Event
    ) -> Sequence[LexicalHits]:
        """Search the full text once the request is admitted: a refused request costs nothing."""
        if call.ranking.text_weight == 0:
            return [[] for _ in call.queries]
        await let_in.wait()
        request = LexicalRequest(
            reader=_reader(call.principal),
            generations=generations,
            texts=call.queries,
            limit=call.limit,
            filters=call.filters,
        )
        async with left.limit():
            return await self._index.lexical(request)

    def _embedder(self, generations: list[Generation]) -> str:
        """Return the model that made all of the vectors.

        Raises:
            InvalidRequest: there are several.
            EmbedderMismatch: it is not served.
        """
        model, *others = dict.fromkeys(generation.model for generation in generations)
        if others:
            raise InvalidRequest(
                f"These vector stores have different embedding models, {model!r} and "
                f"{others[0]!r}; search stores of one model together.",
                param="file_search.vector_store_ids",  # Only a conversation can name several.
            )
        if not self._vectors.serves(model):
            raise _mismatch(generations[0], "is not served now")
        return model


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """The scope of work that goes on beside the block, and ends with it at the latest."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # Its error is the block's to raise.


def _reader(principal: Principal) -> Reader:
    return Reader.of(principal.tenant, sorted(principal.groups), principal.user)


def _embedding(call: SearchCall, model: str, options: RequestOptions) -> Call:
    """The embedding of a search's questions, as a call of its own."""
    return Call(
        request_id=call.request_id,
        principal=call.principal,
        model=model,
        options=options,
        privacy=call.privacy,
    )


def _weights(ranking: Ranking) -> Weights:
    return Weights(embedding=ranking.embedding_weight, text=ranking.text_weight)


def _mismatch(generation: Generation, reason: str) -> EmbedderMismatch:
    store_id = generation.store_id
    return EmbedderMismatch(
        f"The vectors of {store_id} were made by {generation.model!r}, which {reason}. "
        f"`ringfence reembed --store {store_id} --model MODEL` makes new ones."
    )
