"""Retrieval as the pipeline has it: a search, and conversations grounded by it."""

from __future__ import annotations

from dataclasses import dataclass

from serving.retrieval.grounding import Grounding, Searches


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Retrieval as the pipeline has it.

    Attributes:
        searches: Finds passages in vector stores.
        grounding: Puts them into prompts.
    """

    searches: Searches
    grounding: Grounding
