"""Grounding of conversations: passages are searched, put into the prompt, and reported.

The class of a request rises to that of every passage in its prompt.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from models.tokens.token_counter import TokenCounter, upper_bound
from rag.search.grounding import Grounded, Message, ground
from rag.search.passages import Passage, citations
from serving.accounting.estimate import UNKNOWN_CONTEXT_TOKENS
from serving.domain.calls import GenerationCall
from serving.domain.privacy_class import PrivacyClass, strictest
from serving.domain.search_call import FileSearch, RetrievedPassages, SearchCall
from serving.domain.time_left import TimeLeft

ANSWER_SHARE = 4
"""The part of a model's context that is left to an answer without a limit of its own."""

SPARE_TOKENS = 8
"""By how much counts of tokens here and in the engine may differ."""


class Searches(Protocol):
    """Finds passages."""

    async def search(self, call: SearchCall) -> RetrievedPassages:
        """Passages that the caller may see, best first. Raises `RingfenceError`, `EngineError`."""
        ...


@dataclass(frozen=True, slots=True)
class GroundedCall:
    """A request with passages in its prompt, and their sources for the answer."""

    call: GenerationCall
    sources: dict[str, Any]


class Grounding:
    """Gives conversations their passages.

    Args:
        searches: finds them.
        counters: of the models that generate.
    """

    def __init__(self, searches: Searches, counters: Mapping[str, TokenCounter]) -> None:
        self._searches = searches
        self._counters = counters

    async def ground(self, call: GenerationCall, asked: FileSearch) -> GroundedCall:
        """Look for what the last question of the user asks, and put it before that question.

        The call that comes back has what is left of its client's time.

        Raises:
            RingfenceError: a store is not there, or the search is not let in, or cannot be run.
            EngineError: the embedder or the reranker failed.
        """
        left = TimeLeft(call.options)
        question = _question(call.body["messages"])
        found = RetrievedPassages([], [])
        if question:
            found = await self._searches.search(_search(call, asked, question))
        grounded = await self._grounded(call, found)
        classes = [cast("PrivacyClass", passage.privacy) for passage in grounded.used]
        raised = replace(
            call,
            body=call.body | {"messages": grounded.messages},
            privacy=strictest(call.privacy, *classes),
            options=left.options(),
        )
        return GroundedCall(raised, _sources(found, grounded.used, asked))

    async def _grounded(self, call: GenerationCall, found: RetrievedPassages) -> Grounded:
        counter = self._counters[call.model]

        async def count(messages: list[Message]) -> int:
            body = call.body | {"messages": messages}
            tokens = await counter.count("chat", body)
            return upper_bound("chat", body) if tokens is None else tokens

        return await ground(
            call.body["messages"],
            found.passages,
            count=count,
            budget_tokens=_budget_tokens(call.body, counter.context_tokens),
            tag=secrets.token_hex(8),
        )


def _search(call: GenerationCall, asked: FileSearch, question: str) -> SearchCall:
    return SearchCall(
        request_id=call.request_id,
        principal=call.principal,
        store_ids=asked.store_ids,
        queries=[question],
        limit=asked.limit,
        filters=asked.filters,
        ranking=asked.ranking,
        options=call.options,
        privacy=call.privacy,
    )


def _question(messages: list[Message]) -> str:
    """The last message of the user that has text."""
    said = (message["content"] for message in reversed(messages) if message["role"] == "user")
    return next((text for text in map(str, said) if text.strip()), "")


def _budget_tokens(body: Mapping[str, Any], context_tokens: int | None) -> int:
    """Tokens that a prompt may have, so that there is room for its answer."""
    context = context_tokens or UNKNOWN_CONTEXT_TOKENS
    answer = body.get("max_completion_tokens") or body.get("max_tokens") or context // ANSWER_SHARE
    return context - min(answer, context) - SPARE_TOKENS


def _sources(found: RetrievedPassages, used: list[Passage], asked: FileSearch) -> dict[str, Any]:
    """Return the fields of an answer's message beside its text."""
    results = [_result(passage) for passage in found.passages] if asked.with_results else None
    return {
        "annotations": citations(used),
        "file_search_call": {"queries": list(found.queries), "results": results},
    }


def _result(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.score,
        "attributes": dict(passage.attributes),
        "page": passage.page,
        "passage": passage.position,
        "text": passage.text,
    }
