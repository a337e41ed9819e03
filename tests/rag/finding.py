"""Helpers: what a search finds by meaning and by words, and the recorded intents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sqlalchemy import select

from rag.schema import IndexIntent
from rag.search.fusion import Weights
from rag.search.retrieval import Query, Retriever
from rag.stores.access_lists import Reader
from tests.rag.workshop import READER, Workshop

MEANING, WORDS = Weights(embedding=1, text=0), Weights(embedding=0, text=1)


async def found(
    shop: Workshop, store: str, word: str, weights: Weights, reader: Reader = READER
) -> list[str]:
    """Return the files whose chunks contain a word, for one kind of search."""
    (generation,) = await shop.stores.generations(reader, [store])
    embedded = await shop.embedders[generation.model].embedder.embed([word])
    query = Query(reader, [generation], word, embedded.vectors[0], 50, weights=weights)
    retriever = Retriever(shop.database, shop.vectors, shop.text, clock=shop.clock)
    lexical = await retriever.lexical(query.question) if weights.text else []
    passages = (await retriever.search(replace(query, lexical=lexical))).passages
    return sorted({one.file_id for one in passages if word in one.text.split()})


async def noted(shop: Workshop) -> list[tuple[str, str]]:
    """Return kind and subject of all intents."""
    async with shop.database.session() as session:
        rows = await session.execute(select(IndexIntent.kind, IndexIntent.subject))
        return sorted((kind, subject) for kind, subject in rows)


async def note(
    shop: Workshop, kind: str, subject: str, *, collection: str | None = None, until: float = 0.0
) -> None:
    """Add an intent of acme's, as a process does before it acts."""
    async with shop.database.transaction() as session:
        session.add(
            IndexIntent(
                kind=kind, tenant="acme", subject=subject, collection=collection, until=until
            )
        )


async def eventually(true: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(within_s):
        while True:
            if await true():
                return
            await asyncio.sleep(0.02)
