from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.retrieval.cranfield import Cranfield, quality, read

DOCUMENTS = """.I 1
.T
a title
.A
an author
.W
first line
second line
.I 2
.T
empty
.W
.I 3
.W
another
"""
QUESTIONS = ".I 001\n.W\nwhat\nlifts .\n.I 004\n.W\nwhat drags .\n"


@pytest.fixture
def collection(tmp_path: Path) -> Cranfield:
    (tmp_path / "cran.all.1400").write_text(DOCUMENTS, "utf-8")
    (tmp_path / "cran.qry").write_text(QUESTIONS, "utf-8")
    (tmp_path / "qrels.txt").write_text("1 0 1 5\n1 0 3 1\n2 0 3 2\n", "utf-8")
    return read(tmp_path)


def test_abstracts_are_their_text_alone_and_never_empty(collection: Cranfield) -> None:
    assert collection.abstracts == {"1": "first line\nsecond line", "3": "another"}


def test_questions_are_numbered_by_place(collection: Cranfield) -> None:
    assert collection.questions == {"1": "what\nlifts .", "2": "what drags ."}


def test_quality_of_a_perfect_ranking_is_1(collection: Cranfield) -> None:
    found = quality(collection, {"1": ["1", "3"], "2": ["3", "1"]})
    assert (found.ndcg_at_10, found.recall_at_100) == (1.0, 1.0)


def test_quality_falls_with_order_and_with_what_is_missing(collection: Cranfield) -> None:
    swapped = quality(collection, {"1": ["3", "1"], "2": ["3"]})
    missing = quality(collection, {"1": ["1"], "2": []})
    assert swapped.ndcg_at_10 < 1.0 == swapped.recall_at_100
    assert missing.recall_at_100 == pytest.approx(0.25)


def test_quality_of_a_half_leaves_the_other_out(collection: Cranfield) -> None:
    assert quality(collection, {"1": [], "2": ["3"]}, remainder=0).recall_at_100 == 1.0
