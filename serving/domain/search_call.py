"""A search in vector stores: its question and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rag.search.filters import Filter
from rag.search.passages import Passage
from serving.domain.calls import RequestOptions
from serving.domain.principal import Principal
from serving.domain.privacy_class import PrivacyClass

Ranker = Literal["none", "auto", "default-2024-11-15"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How passages are ranked, and the least score that they need.

    The weights are of ranks by meaning and by words, as the API has them; `ranker` of `none` leaves
    out the reranker.
    """

    threshold: float = 0.0
    embedding_weight: float = 1.0
    text_weight: float = 1.0
    ranker: Ranker = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCall:
    """Who looks for what, in which stores, and with which options."""

    request_id: str
    principal: Principal
    store_ids: Sequence[str]
    queries: Sequence[str]
    limit: int = 10
    filters: Filter | None = None
    ranking: Ranking = Ranking()
    options: RequestOptions = field(default_factory=RequestOptions)
    privacy: PrivacyClass = "local_only"


@dataclass(frozen=True, slots=True)
class RetrievedPassages:
    """Passages that the caller may see, best first, and the questions they were found by."""

    passages: Sequence[Passage]
    queries: Sequence[str]


@dataclass(frozen=True, slots=True)
class FileSearch:
    """What a conversation is grounded in. `with_results` also returns the passages."""

    store_ids: Sequence[str]
    limit: int = 10
    filters: Filter | None = None
    ranking: Ranking = Ranking()
    with_results: bool = False
