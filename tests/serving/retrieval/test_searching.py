"""Searches in vector stores: requests to the index, and errors if a search cannot run."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from models.engine import EngineFailed, EngineUnavailable
from rag.errors import IndexUnavailable, TooMany
from rag.search.filters import Comparison
from rag.search.fusion import Weights
from rag.stores.access_lists import Reader
from serving.domain.calls import RequestOptions
from serving.domain.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RateLimited,
    StateUnavailable,
)
from serving.domain.principal import Principal
from serving.domain.search_call import Ranking, SearchCall
from serving.retrieval.query_vectors import QueryVectors
from serving.retrieval.searching import Searching
from serving.storage.errors import DatabaseUnavailable
from serving.wiring.admission import AdmissionParts
from tests.rag.passage import passage
from tests.serving.conftest import SPECS
from tests.serving.fakes import DIMENSION, FakeEmbedder
from tests.serving.retrieval.shelf import FakeIndex, FakeStores, generation
from tests.serving.wired import CharacterCounter, Wire, invent_key

GONE = IndexUnavailable("The vectors are not there.")


@dataclass(frozen=True)
class Place:
    """A search on fakes, and the parts it used."""

    searching: Searching
    stores: FakeStores
    index: FakeIndex
    embedder: FakeEmbedder
    admission_parts: AdmissionParts
    key_id: str

    def call(self, *store_ids: str, **fields: Any) -> SearchCall:
        principal = Principal(
            "acme", self.key_id, "ci", "inference", frozenset(), groups=frozenset({"legal"}),
            user="ann",
        )  # fmt: skip
        fields = {"queries": ["lift?", "drag?"]} | fields
        return SearchCall(
            request_id="r1", principal=principal, store_ids=store_ids or ["vs_1"], **fields
        )

    async def search(self, *store_ids: str, **fields: Any) -> Any:
        return await self.searching.search(self.call(*store_ids, **fields))


Open = Callable[..., Place]


@pytest.fixture
def place(wire: Wire) -> Open:
    def build(
        stores: FakeStores | None = None,
        index: FakeIndex | None = None,
        embedder: FakeEmbedder | None = None,
        **settings: Any,
    ) -> Place:
        stores, index = stores or FakeStores(), index or FakeIndex.holding(passage(1))
        embedder = embedder or FakeEmbedder()
        _, admission_parts, _ = wire(SPECS, {}, {"embed": embedder}, **settings)
        vectors = QueryVectors(
            admission_parts.attempts, {"embed": embedder}, {"embed": CharacterCounter()}
        )
        searching = Searching(stores, index, vectors)
        return Place(searching, stores, index, embedder, admission_parts, invent_key())

    return build


async def test_passages_come_back_with_the_questions_they_were_found_by(place: Open) -> None:
    found = await place(index=FakeIndex.holding(passage(2), passage(1))).search()
    assert [one.chunk_id for one in found.passages] == [2, 1]
    assert found.queries == ["lift?", "drag?"]


async def test_everything_that_was_asked_for_reaches_the_index(place: Open) -> None:
    there = place(FakeStores(generation("vs_1"), generation("vs_2")))
    wanted = Comparison("year", "eq", (2026.0,))
    ranking = Ranking(threshold=0.3, embedding_weight=2.0, text_weight=0.5, ranker="none")
    await there.search("vs_1", "vs_2", limit=7, filters=wanted, ranking=ranking)
    (request,) = there.index.requests
    assert request.reader == Reader.of("acme", ["legal"], "ann")
    assert request.generations == [generation("vs_1"), generation("vs_2")]
    assert (request.texts, request.limit, request.filters) == (["lift?", "drag?"], 7, wanted)
    assert (request.threshold, request.weights) == (0.3, Weights(embedding=2.0, text=0.5))
    assert not request.rerank
    assert request.vectors.shape == (2, DIMENSION)
    assert request.vectors.dtype == np.float32


async def test_full_text_is_asked_for_the_same_and_what_it_finds_reaches_the_index(
    place: Open,
) -> None:
    there = place(FakeStores(generation("vs_1"), generation("vs_2")))
    there.index.words = [[[3, 1], [2]], [[], [4]]]
    wanted = Comparison("year", "eq", (2026.0,))
    await there.search("vs_1", "vs_2", limit=7, filters=wanted)
    (asked,), (request,) = there.index.asked, there.index.requests
    assert asked.reader == Reader.of("acme", ["legal"], "ann")
    assert asked.generations == [generation("vs_1"), generation("vs_2")]
    assert (asked.texts, asked.limit, asked.filters) == (["lift?", "drag?"], 7, wanted)
    assert request.lexical == [[[3, 1], [2]], [[], [4]]]


async def test_full_text_is_searched_while_the_questions_are_embedded(place: Open) -> None:
    index = FakeIndex.holding(passage(1))
    there = place(index=index, embedder=FakeEmbedder(index.began))
    assert (await there.search(options=RequestOptions(timeout_s=5))).passages == (passage(1),)


async def test_full_text_is_not_searched_where_words_do_not_count(place: Open) -> None:
    there = place()
    await there.search(ranking=Ranking(text_weight=0.0))
    assert there.index.asked == []
    assert there.index.requests[0].lexical == [[], []]


async def test_request_that_is_not_let_in_costs_no_search(place: Open) -> None:
    there = place(admission={"per_key": {"requests_per_minute": 1}})
    await there.search()
    with pytest.raises(RateLimited):
        await there.search()
    assert (len(there.index.asked), len(there.index.requests)) == (1, 1)


async def test_request_whose_embedder_is_not_there_costs_no_search(place: Open) -> None:
    there = place(is_ready=lambda _: False)
    with pytest.raises(EngineUnavailable):
        await there.search()
    assert (there.index.asked, there.index.requests) == ([], [])


async def test_full_text_ends_where_embedding_fails(place: Open) -> None:
    index = FakeIndex(words=asyncio.Event())
    there = place(index=index, embedder=FakeEmbedder(index.began, EngineFailed("It broke.")))
    with pytest.raises(EngineFailed):
        await there.search()
    assert (len(index.asked), index.open, index.requests) == (1, 0, [])


async def test_caller_that_goes_away_ends_both(place: Open) -> None:
    never = asyncio.Event()
    there = place(index=FakeIndex(words=never), embedder=FakeEmbedder(never))
    search = asyncio.create_task(there.search())
    await there.index.began.wait()
    await there.embedder.started.wait()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert (there.index.open, there.embedder.open) == (0, 0)


async def test_search_of_which_both_halves_fail_tells_one_error_and_forgets_none(
    place: Open,
) -> None:
    forgotten: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: forgotten.append(told))
    index = FakeIndex(words=GONE)
    there = place(index=index, embedder=FakeEmbedder(index.began, EngineFailed("It broke.")))
    with pytest.raises(EngineFailed):
        await there.search()
    there.embedder.script = ()  # Its error would hold all that was there when it was raised.
    gc.collect()
    assert forgotten == []


async def test_request_to_the_index_can_be_sent_to_another_process(place: Open) -> None:
    there = place()
    await there.search(filters=Comparison("year", "eq", (2026.0,)))
    (sent,) = there.index.requests
    came = pickle.loads(pickle.dumps(sent))  # noqa: S301  It was pickled here.
    assert np.array_equal(came.vectors, sent.vectors)
    assert replace(came, vectors=sent.vectors) == sent


async def test_reranker_is_asked_unless_the_caller_leaves_it_out(place: Open) -> None:
    there = place()
    await there.search()
    assert there.index.requests[0].rerank


async def test_search_is_an_attempt_of_a_key_that_may_not_use_the_embedder(place: Open) -> None:
    there = place()
    assert not there.call().principal.may_use("embed")
    await there.search()
    (row,) = await there.admission_parts.ledger.report(
        group_by=[], key_id=there.key_id, model="embed"
    )
    assert row.prompt_tokens == len("lift?drag?")


async def test_search_is_bounded_like_any_request(place: Open) -> None:
    there = place(admission={"per_key": {"requests_per_minute": 1}})
    await there.search()
    with pytest.raises(RateLimited):
        await there.search()


async def test_store_that_is_not_there_is_not_found_and_nothing_is_embedded(place: Open) -> None:
    there = place()
    with pytest.raises(NotFound, match=r"^No such vector store\.$"):
        await there.search("vs_1", "vs_9")
    assert (there.embedder.inputs, there.index.requests) == ([], [])


async def test_stores_of_two_embedders_are_refused_by_their_names(place: Open) -> None:
    there = place(FakeStores(generation("vs_1"), generation("vs_2", model="older")))
    with pytest.raises(InvalidRequest, match=r"'embed' and 'older'") as caught:
        await there.search("vs_1", "vs_2")
    assert caught.value.param == "file_search.vector_store_ids"
    assert there.embedder.inputs == []


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (generation("vs_1", model="older"), "'older', which is not served now"),
        (generation("vs_1", dimension=DIMENSION + 1), "'embed', which has another dimension now"),
    ],
)
async def test_vectors_of_another_embedder_are_not_compared(
    place: Open, kept: Any, why: str
) -> None:
    there = place(FakeStores(kept))
    with pytest.raises(Conflict, match=f"{why}.*ringfence reembed --store vs_1"):
        await there.search()
    assert there.index.requests == []


async def test_vectors_that_were_given_up_meanwhile_are_looked_up_once_more(place: Open) -> None:
    stores = FakeStores(generation("vs_1"), generation("vs_1", 2))
    there = place(stores, FakeIndex.of(GONE, [passage(1)]))
    found = await there.search()
    assert len(found.passages) == 1
    searched = [request.generations[0].id for request in there.index.requests]
    assert searched == ["vs_1-1", "vs_1-2"]


async def test_vectors_that_full_text_misses_are_looked_up_once_more(place: Open) -> None:
    there = place(FakeStores(*(generation("vs_1", number) for number in (1, 2, 3))))
    there.index.words = GONE
    with pytest.raises(StateUnavailable, match="not there"):
        await there.search()
    assert [asked.generations[0].id for asked in there.index.asked] == ["vs_1-1", "vs_1-2"]
    assert there.index.requests == []


async def test_vectors_are_looked_up_no_more_than_once_again(place: Open) -> None:
    stores = FakeStores(*(generation("vs_1", number) for number in (1, 2, 3)))
    there = place(stores, FakeIndex.of(GONE))
    with pytest.raises(StateUnavailable, match="not there"):
        await there.search()
    assert len(there.index.requests) == 2


async def test_index_that_is_down_is_not_asked_again(place: Open) -> None:
    there = place(index=FakeIndex.of(GONE))
    with pytest.raises(StateUnavailable, match="not there"):
        await there.search()
    assert len(there.index.requests) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [(TooMany("Full."), InvalidRequest), (EngineFailed("The reranker broke."), EngineFailed)],
)
async def test_failure_of_the_index_is_told(
    place: Open, error: Exception, told: type[Exception]
) -> None:
    with pytest.raises(told):
        await place(index=FakeIndex.of(error)).search()


async def test_failure_of_full_text_is_told(place: Open) -> None:
    there = place(index=FakeIndex(words=TooMany("Full.")))
    with pytest.raises(InvalidRequest, match="Full"):
        await there.search()
    assert there.index.requests == []


async def test_database_that_is_away_is_told(place: Open) -> None:
    there = place()
    there.stores.error = DatabaseUnavailable("secret detail")
    with pytest.raises(StateUnavailable, match="does not answer now"):
        await there.search()


@pytest.mark.parametrize("slow", ["stores", "embedder", "full text", "index"])
async def test_client_s_time_bounds_every_step(place: Open, slow: str) -> None:
    never = asyncio.Event()
    there = place(
        index=FakeIndex.of(never) if slow == "index" else None,
        embedder=FakeEmbedder(never) if slow == "embedder" else None,
    )
    there.index.words = never if slow == "full text" else None
    there.stores.wait = never if slow == "stores" else None
    with pytest.raises(DeadlineExceeded):
        await there.search(options=RequestOptions(timeout_s=0.2))
