"""Bodies of the vector store API."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from serving.domain.errors import InvalidRequest
from serving.domain.search_call import Ranking
from serving.gateway import body
from serving.gateway.wire.conversation import Wire
from serving.gateway.wire.vector_stores import (
    MAX_BATCH,
    MAX_PAIRS,
    MAX_QUERIES,
    MAX_QUERY,
    AttributesChange,
    BatchCreation,
    FileAttachment,
    FileChange,
    StoreChange,
    StoreCreation,
    StoreSearch,
)


def parse(kind: type[body.Body], **fields: Any) -> body.Body:
    return body.parse(orjson.dumps(fields), kind, max_depth=16)


def static(size: int, overlap: int) -> dict[str, Any]:
    sizes = {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}
    return {"type": "static", "static": sizes}


@pytest.mark.parametrize("sizes", [(100, 0), (100, 50), (4096, 2048)])
def test_chunk_sizes_may_be_at_their_bounds(sizes: tuple[int, int]) -> None:
    parse(FileAttachment, file_id="file-1", chunking_strategy=static(*sizes))


PAIRS = {f"k{at}": "v" for at in range(MAX_PAIRS)}
STORE_EXPIRY = {"anchor": "last_active_at", "days": 7}


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (FileAttachment, {}, "file_id"),
        (FileAttachment, {"file_id": "a/b"}, "file_id"),
        (FileAttachment, {"file_id": "a\x00"}, "file_id"),
        (AttributesChange, {}, "attributes"),
        (AttributesChange, {"attributes": PAIRS | {"one": 1}}, "attributes"),
        (AttributesChange, {"attributes": {"a\x00": 1}}, "attributes.a\x00"),
        (AttributesChange, {"attributes": {"a": "x" * 513}}, "attributes.a"),
        (AttributesChange, {"attributes": {"a": "x\x00"}}, "attributes.a"),
        (AttributesChange, {"attributes": {"a": None}}, "attributes.a"),
        (AttributesChange, {"attributes": {"a": ["x"]}}, "attributes.a"),
        (StoreCreation, {"metadata": {"a": 1}}, "metadata.a"),
        (StoreCreation, {"metadata": PAIRS | {"one": "v"}}, "metadata"),
        (StoreCreation, {"name": "x" * 257}, "name"),
        (StoreCreation, {"name": "\x00"}, "name"),
        (StoreCreation, {"access": []}, "access"),
        (StoreCreation, {"access": ["all"]}, "access[0]"),
        (StoreCreation, {"file_ids": ["file-1", 2]}, "file_ids[1]"),
        (StoreCreation, {"expires_after": STORE_EXPIRY | {"days": 0}}, "expires_after.days"),
        (StoreCreation, {"reuse": True}, None),
        (StoreCreation, {"reuse": True, "name": ""}, None),
        (StoreCreation, {"reuse": True, "name": "n", "file_ids": ["file-1"]}, None),
        (StoreCreation, {"reuse": "yes", "name": "n"}, "reuse"),
        (StoreChange, {"expires_after": STORE_EXPIRY | {"anchor": "x"}}, "expires_after.anchor"),
        (FileChange, {"privacy": "public"}, "privacy"),
        (FileChange, {"access": ["user:"]}, "access[0]"),
        (BatchCreation, {}, None),
        (BatchCreation, {"file_ids": ["a"], "files": [{"file_id": "a"}]}, None),
        (BatchCreation, {"file_ids": []}, "file_ids"),
        (BatchCreation, {"file_ids": ["a"] * (MAX_BATCH + 1)}, "file_ids"),
        (BatchCreation, {"files": [{"file_id": "a"}, {}]}, "files[1].file_id"),
        (StoreSearch, {}, "query"),
        (StoreSearch, {"query": ""}, "query"),
        (StoreSearch, {"query": "x" * (MAX_QUERY + 1)}, "query"),
        (StoreSearch, {"query": []}, "query"),
        (StoreSearch, {"query": ["x"] * (MAX_QUERIES + 1)}, "query"),
        (StoreSearch, {"query": ["x", ""]}, "query[1]"),
        (StoreSearch, {"query": "x", "max_num_results": 0}, "max_num_results"),
        (StoreSearch, {"query": "x", "max_num_results": 101}, "max_num_results"),
        (StoreSearch, {"query": "x", "filters": []}, "filters"),
        (
            StoreSearch,
            {"query": "x", "ranking_options": {"ranker": "best"}},
            "ranking_options.ranker",
        ),
        (
            StoreSearch,
            {"query": "x", "ranking_options": {"score_threshold": 1.5}},
            "ranking_options.score_threshold",
        ),
        (
            StoreSearch,
            {
                "query": "x",
                "ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}},
            },
            "ranking_options.hybrid_search",
        ),
    ],
)
def test_body_that_cannot_be_meant_is_refused(
    kind: type[Wire], fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(kind, **fields)
    assert refused.value.param == param


@pytest.mark.parametrize("sizes", [(99, 0), (4097, 0), (800, 401), (101, 51), (800, -1)])
def test_chunk_sizes_beyond_their_bounds_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(FileAttachment, file_id="file-1", chunking_strategy=static(*sizes))
    assert str(refused.value.param).startswith("chunking_strategy.static")


@pytest.mark.parametrize("value", [True, 1, 1.5, "x", "", -(2**53)])
def test_attributes_keep_their_types(value: Any) -> None:
    attributes = parse(AttributesChange, attributes={"a": value}).attributes or {}
    assert (type(attributes["a"]), attributes["a"]) == (type(value), value)


def test_batch_of_ids_gives_each_what_is_said_of_all() -> None:
    batch = parse(BatchCreation, file_ids=["a", "b"], attributes={"year": 2026})
    assert [(one.file_id, one.attributes) for one in batch.attachments()] == [
        ("a", {"year": 2026}),
        ("b", {"year": 2026}),
    ]


def test_batch_of_files_gives_each_its_own() -> None:
    files = [{"file_id": "a", "attributes": {"x": 1}}, {"file_id": "b"}]
    batch = parse(BatchCreation, files=files, attributes={"year": 2026})
    assert [(one.file_id, one.attributes) for one in batch.attachments()] == [
        ("a", {"x": 1}),
        ("b", None),
    ]


def test_search_of_one_question_is_one_of_a_list() -> None:
    assert parse(StoreSearch, query="x").queries() == parse(StoreSearch, query=["x"]).queries()


def test_ranking_is_taken_as_it_is_sent() -> None:
    weights = {"embedding_weight": 2, "text_weight": 0.5}
    options = {"ranker": "none", "score_threshold": 0.25, "hybrid_search": weights}
    search = parse(StoreSearch, query="x", ranking_options=options)
    assert search.ranking() == Ranking(0.25, 2.0, 0.5, "none")


def test_ranking_without_options_is_the_default() -> None:
    assert parse(StoreSearch, query="x").ranking() == Ranking()
