"""Publication: changes what a store shows, in one transaction with the intents that follow from it.

SQL and full text change at once. Vectors follow later through intents, which survive a crash.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from rag.index.protocols import TextIndex
from rag.reembedding.generations import Generations, generations
from rag.schema import ChunkRow, IndexIntent, StoreFile, VectorStore


async def withdraw(
    session: AsyncSession, text: TextIndex, store_id: str, file_ids: Sequence[str] | None = None
) -> None:
    """Withdraw the published chunks of files from a store; the rows of the files stay.

    Args:
        session: a transaction. One that withdraws from several stores must take them in order of
            their ids, so that two of them never deadlock.
        text: the full-text index.
        store_id: the store.
        file_ids: the files to withdraw; None withdraws all.

    Raises:
        NotThere: the store does not exist.
    """
    found = await generations(session, store_id, lock=True)
    published = (StoreFile.store_id == store_id) & StoreFile.version.is_not(None)
    if file_ids is not None:
        published &= StoreFile.file_id.in_(file_ids)
    versions = list(await session.scalars(select(StoreFile.version).where(published)))
    number = await session.scalar(select(VectorStore.number).where(VectorStore.id == store_id))
    for version in versions:
        if version is not None and number is not None:
            await text.remove(session, number, version)
            intend_erasure(session, found, version)
    await session.execute(delete(ChunkRow).where(ChunkRow.version.in_(versions)))
    await session.execute(update(StoreFile).where(published).values(version=None, usage_bytes=0))


def intend_erasure(session: AsyncSession, found: Generations, version: str) -> None:
    """Record that the vectors of a version are to be erased from all generations of its store."""
    session.add_all(
        IndexIntent(
            kind="erase", tenant=found.tenant, subject=version,
            collection=generation.collection, until=0.0,
        )
        for generation in found.all
    )  # fmt: skip


def intend_blob_removal(session: AsyncSession, tenant: str, file_id: str) -> None:
    """Record that the bytes of a file are to be removed."""
    session.add(IndexIntent(kind="blob", tenant=tenant, subject=file_id, until=0.0))
