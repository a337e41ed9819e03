"""Bodies of searches in vector stores, alone or for a conversation. Types are strict."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from rag.errors import Refused
from rag.search.filters import Filter, parse
from serving.domain.errors import InvalidRequest
from serving.domain.search_call import FileSearch, Ranker, Ranking
from serving.gateway.wire.conversation import Messages, Quick, Wire

MAX_RESULTS = 100
"""OpenAI stops at 50. Recall is measured at 100."""

MAX_STORES = 10
"""Most vector stores that one conversation is grounded in."""

Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Included = Literal["file_search_call.results"]
"""What an answer can tell beside its text: the passages that were found."""


class HybridSearch(Wire):
    """The weights of meaning and of words."""

    embedding_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    text_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _not_both_zero(self) -> HybridSearch:
        if self.embedding_weight == self.text_weight == 0:
            raise ValueError("one of the weights must be above 0")
        return self


class RankingOptions(Wire):
    """The ranking of passages."""

    ranker: Ranker = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    hybrid_search: HybridSearch | None = None

    def ranking(self) -> Ranking:
        """The ranking as the pipeline takes it."""
        ranking = Ranking(threshold=self.score_threshold, ranker=self.ranker)
        if (weights := self.hybrid_search) is None:
            return ranking
        return replace(
            ranking,
            embedding_weight=weights.embedding_weight,
            text_weight=weights.text_weight,
        )


class SearchOptions(Wire):
    """Options of every search."""

    max_num_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = Field(
        10, description="The most passages that are returned."
    )
    filters: dict[str, Any] | None = Field(
        None, description="Which files are searched, by their attributes, in OpenAI's form."
    )
    ranking_options: RankingOptions | None = Field(
        None, description="How passages are ranked, in OpenAI's form."
    )

    def ranking(self) -> Ranking:
        """The ranking of passages."""
        return Ranking() if self.ranking_options is None else self.ranking_options.ranking()

    def filter(self, *, within: str = "") -> Filter | None:
        """The filter of files; None for all.

        Args:
            within: the field that holds these, with a dot at its end.

        Raises:
            InvalidRequest: it is no filter, or too large.
        """
        try:
            return None if self.filters is None else parse(self.filters)
        except Refused as error:
            raise InvalidRequest(error.message, param=within + "filters") from None


class FileSearchOptions(SearchOptions):
    """`file_search`: the vector stores that a conversation is grounded in."""

    vector_store_ids: Annotated[list[Id], Quick, Field(min_length=1, max_length=MAX_STORES)] = (
        Field(description="The vector stores that are searched.")
    )


class Groundable(Wire):
    """A conversation that may be grounded in documents."""

    messages: Messages
    file_search: FileSearchOptions | None = Field(
        None, description="Search these vector stores and put passages into the prompt."
    )
    include: Annotated[list[Included], Quick] | None = Field(
        None, description="Return the passages beside the answer, in `file_search_call`."
    )

    def grounding(self) -> FileSearch | None:
        """The search that grounds it; None if there is none.

        Raises:
            InvalidRequest: nobody asks anything, or its filters are none.
        """
        if (asked := self.file_search) is None:
            return None
        if not any(one.role == "user" and one.text().strip() for one in self.messages):
            raise InvalidRequest(
                "file_search looks for what the user asks: messages needs one of the role user "
                "with text.",
                param="messages",
            )
        return FileSearch(
            store_ids=list(dict.fromkeys(asked.vector_store_ids)),
            limit=asked.max_num_results,
            filters=asked.filter(within="file_search."),
            ranking=asked.ranking(),
            with_results=bool(self.include),
        )
