from __future__ import annotations

from rag.search.passages import citations, merged
from tests.rag.passage import passage


def test_merged_passages_of_several_questions_come_once_with_their_best_score() -> None:
    first = [passage(1, score=0.9), passage(2, score=0.4)]
    second = [passage(2, score=0.7), passage(3, score=0.5)]
    found = merged([first, second], 10)
    assert [(one.chunk_id, one.score) for one in found] == [(1, 0.9), (2, 0.7), (3, 0.5)]


def test_merged_passages_are_at_most_the_limit() -> None:
    assert merged([[passage(1)], [passage(2)]], 1) == [passage(1)]


def test_merged_ties_go_to_the_better_cosine_and_then_to_the_lower_id() -> None:
    drawn = [passage(1, cosine=None), passage(3, cosine=0.1), passage(2, cosine=0.1)]
    assert [one.chunk_id for one in merged([drawn], 3)] == [2, 3, 1]


def test_citations_tell_file_page_passage_and_score_by_index() -> None:
    assert citations([passage(1), passage(2, page=None, score=0.25)]) == [
        {
            "type": "file_citation",
            "file_id": "file-1",
            "filename": "wings.pdf",
            "index": 0,
            "page": 3,
            "passage": 11,
            "score": 0.5,
        },
        {
            "type": "file_citation",
            "file_id": "file-2",
            "filename": "wings.pdf",
            "index": 1,
            "page": None,
            "passage": 12,
            "score": 0.25,
        },
    ]
