"""The Cranfield collection: abstracts, questions and relevance judgements; and scores of rankings.

Questions are numbered by position, as in the judgements; their own ids have gaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
from ir_measures import R, nDCG

_FIELD = re.compile(r"^\.([IW])(?: (\d+))?\s*$|^\.[A-Z]\s*$")

NDCG, RECALL = nDCG @ 10, R @ 100


@dataclass(frozen=True, slots=True)
class Cranfield:
    """The collection: texts by id, without the two empty abstracts."""

    abstracts: Mapping[str, str]
    questions: Mapping[str, str]
    judgements: Path


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over questions: nDCG@10 (linear gain) and recall@100."""

    ndcg_at_10: float
    recall_at_100: float


def read(directory: Path) -> Cranfield:
    """Read `cran.all.1400`, `cran.qry` and `qrels.txt`.

    Raises:
        OSError: a file cannot be read.
    """
    abstracts = _texts(directory / "cran.all.1400")
    questions = [text for _, text in _texts(directory / "cran.qry")]
    return Cranfield(
        abstracts={name: text for name, text in abstracts if text},
        questions={str(place): text for place, text in enumerate(questions, 1)},
        judgements=directory / "qrels.txt",
    )


def quality(
    collection: Cranfield, rankings: Mapping[str, Sequence[str]], *, remainder: int | None = None
) -> Quality:
    """Score rankings of abstracts.

    Args:
        collection: the collection that was searched.
        rankings: ids of abstracts by question, best first.
        remainder: remainder by 2 of the question numbers to score; None scores all.
    """
    chosen = {number for number in rankings if remainder is None or int(number) % 2 == remainder}
    judged = [
        one
        for one in ir_measures.read_trec_qrels(  # type: ignore[no-untyped-call]
            str(collection.judgements)
        )
        if one.query_id in chosen
    ]
    found = [
        ir_measures.ScoredDoc(number, name, -float(place))
        for number in chosen
        for place, name in enumerate(rankings[number])
    ]
    means = ir_measures.calc_aggregate([NDCG, RECALL], judged, found)
    return Quality(means[NDCG], means[RECALL])


def _texts(path: Path) -> list[tuple[str, str]]:
    """Return ids and `.W` fields of a file in SMART's format."""
    entries: list[tuple[str, list[str]]] = []
    reading = False
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if field := _FIELD.match(line):
            reading = field[1] == "W"
            if field[1] == "I":
                entries.append((field[2], []))
        elif reading:
            entries[-1][1].append(line)
    return [(name, "\n".join(lines).strip()) for name, lines in entries]
