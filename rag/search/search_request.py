"""Search requests to the process that owns the indexes, as plain values that can be pickled.

There are two steps: full text is searched while the questions are being embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.index.protocols import Generation
from rag.search.filters import Filter
from rag.search.fusion import Weights
from rag.stores.access_lists import Reader

LexicalHits: TypeAlias = Sequence[Sequence[int]]
"""Full-text results of one question: chunk ids for each store, best first.

Ids reveal no text. Scores of different stores cannot be compared, so none are included.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LexicalRequest:
    """Full-text queries on vector stores; see `SearchRequest`."""

    reader: Reader
    generations: Sequence[Generation]
    texts: Sequence[str]
    limit: int
    filters: Filter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Queries on vector stores that share one embedder.

    Attributes:
        reader: the caller.
        generations: the generations to search, one of each store.
        texts: the questions.
        vectors: the questions' vectors, `(n, dimension)` float32, L2-normalised.
        lexical: full-text results of each question; empty if full text has weight 0.
        limit: maximum passages over all questions.
        filters: a condition on the attributes of files.
        threshold: minimum score of a passage.
        weights: weights of both kinds of search.
        rerank: whether to rerank the best passages, if there is a reranker.
    """

    reader: Reader
    generations: Sequence[Generation]
    texts: Sequence[str]
    vectors: NDArray[np.float32]
    lexical: Sequence[LexicalHits]
    limit: int
    filters: Filter | None
    threshold: float
    weights: Weights
    rerank: bool
