"""A search in vector stores on the path of a request: embedded here, run where the indexes are.

Knows neither indexes nor SQL. What it raises is the API's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rag.access_lists import Reader
from rag.errors import EmbedderMismatch, IndexUnavailable
from rag.fusion import Weights
from rag.index import Generation
from rag.passages import Passage
from rag.search_request import SearchRequest
from serving.access.principal import Principal
from serving.attempts import Call, Terms
from serving.errors import InvalidRequest
from serving.retrieval.errors import errors_told
from serving.retrieval.query_vectors import QueryVectors
from serving.retrieval.time_left import TimeLeft
from serving.search_call import Found, Ranking, SearchCall


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

    async def search(self, call: SearchCall) -> Found:
        """The passages that the caller may see, best first.

        Raises:
            RingfenceError: a store is not there, the stores do not go together, the search is not
                let in, or it cannot be run now.
            EngineError: the embedder or the reranker failed.
        """
        with errors_told():
            return Found(await self._passages(call, TimeLeft(call.terms)), call.queries)

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
        model = self._embedder(generations)
        vectors, _ = await self._vectors.of(_embedding(call, model, left.terms()), call.queries)
        for generation in generations:
            if generation.dimension != vectors.shape[1]:
                raise _mismatch(generation, "has another dimension now")
        request = SearchRequest(
            reader=_reader(call.principal),
            generations=generations,
            texts=call.queries,
            vectors=vectors,
            limit=call.limit,
            filters=call.filters,
            threshold=call.ranking.threshold,
            weights=_weights(call.ranking),
            rerank=call.ranking.ranker != "none",
        )
        async with left.limit():
            return await self._index.search(request)

    def _embedder(self, generations: list[Generation]) -> str:
        """The one model that made all of the vectors.

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


def _reader(principal: Principal) -> Reader:
    return Reader.of(principal.tenant, sorted(principal.groups), principal.user)


def _embedding(call: SearchCall, model: str, terms: Terms) -> Call:
    """The embedding of a search's questions, as a call of its own."""
    return Call(
        request_id=call.request_id,
        principal=call.principal,
        model=model,
        terms=terms,
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
