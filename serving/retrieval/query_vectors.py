"""Vectors of questions: embedded like any request for embeddings, let in and settled.

A question that is longer than its embedder takes is embedded in pieces, whose mean stands for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.embedding.embedder import Embedder
from models.engine import Usage
from models.tokens.token_counter import TokenCounter, upper_bound_of_texts
from serving.accounting.estimate import TokenBudget
from serving.attempts import Attempts, Forecast
from serving.domain.calls import Call
from serving.domain.quota import Quota

MAX_PIECES = 16
"""Most pieces of one question that are embedded. The rest is searched by its words only."""

MAX_CHARACTERS = 8
"""Most characters of a token, on average. A longer text is cut before it is counted."""


class QueryVectors:
    """Embeds questions.

    Args:
        attempts: lets requests in, and settles what they used.
        embedders: of the models that embed.
        counters: of the same.
    """

    def __init__(
        self,
        attempts: Attempts,
        embedders: Mapping[str, Embedder],
        counters: Mapping[str, TokenCounter],
    ) -> None:
        self._attempts = attempts
        self._embedders = embedders
        self._counters = counters

    def serves(self, model: str) -> bool:
        """Return whether this server embeds with that model."""
        return model in self._embedders

    async def of(
        self, call: Call, queries: Sequence[str], *, let_in: asyncio.Event | None = None
    ) -> tuple[NDArray[np.float32], Quota]:
        """Embed each question: vectors `(n, dimension)`, L2-normalised; and what is left of limits.

        Args:
            call: on whose behalf; its model embeds.
            queries: not empty, none of them empty.
            let_in: set when the request is let in, before anything is embedded.

        Raises:
            RingfenceError: the request is not let in.
            EngineError: the embedder refused or failed.
        """
        counter = self._counters[call.model]
        pieces = [await _pieces(query, counter) for query in queries]
        texts = [piece for of_one in pieces for piece in of_one]
        forecast = Forecast(
            TokenBudget.of_embedding(len(texts), counter.context_tokens),
            count=lambda: counter.count_texts(texts),
            bound=lambda: upper_bound_of_texts(texts),
        )
        async with self._attempts.begin(call, endpoint="search", forecast=forecast) as (
            record,
            quota,
        ):
            if let_in is not None:
                let_in.set()
            embeddings = await self._embedders[call.model].embed(texts)
            record.usage = Usage(sum(embeddings.token_counts), 0)
        ends = np.cumsum([len(of_one) for of_one in pieces])[:-1]
        means = [part.mean(axis=0) for part in np.split(embeddings.vectors, ends)]
        return _unit(np.stack(means)), quota


async def _pieces(text: str, counter: TokenCounter) -> list[str]:
    """Split the text into pieces that each fit, in order; whole if tokens cannot be counted."""
    limit = counter.context_tokens
    if limit is None:
        return [text]
    return (await _fitting(text[: MAX_PIECES * limit * MAX_CHARACTERS], limit, counter))[
        :MAX_PIECES
    ]


async def _fitting(text: str, limit: int, counter: TokenCounter) -> list[str]:
    tokens = await counter.count_texts([text])
    if tokens is None or tokens <= limit:
        return [text]
    halves = [half for half in _halves(text) if half.strip()]
    return [piece for half in halves for piece in await _fitting(half, limit, counter)]


def _halves(text: str) -> tuple[str, str]:
    """Two halves, cut at a space where there is one near the middle."""
    middle = len(text) // 2
    space = text.rfind(" ", 0, middle + 1)
    cut = space if space > middle // 2 else middle
    return text[:cut], text[cut:]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
