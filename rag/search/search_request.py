"""A search as it travels to the process that owns the indexes: plain values that can be pickled.

In two steps, because full text needs no vectors: it is searched while the questions are embedded.
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
"""What full text finds for one question: chunk ids of each store, best first.

Nothing can be read by them. How well words fit can be compared within a store only.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LexicalRequest:
    """Questions to the full text of vector stores; see `SearchRequest`."""

    reader: Reader
    generations: Sequence[Generation]
    texts: Sequence[str]
    limit: int
    filters: Filter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Questions to vector stores, all of which have one embedder.

    Attributes:
        reader: On whose behalf.
        generations: What is searched; one of each store.
        texts: The questions.
        vectors: Of the questions, `(n, dimension)` float32, L2-normalised.
        lexical: What full text found for each question; without any where it does not count.
        limit: Passages at most, over all questions.
        filters: What must be true of the attributes of a file.
        threshold: A passage's score at least.
        weights: Of both kinds of search.
        rerank: Whether the reranker looks at the best again, where there is one.
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
