"""Expiry on both databases: expired objects cannot be found, and used ones stay."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from rag.errors import NotThere, Refused
from rag.files.expiry import USED_S
from rag.pages import PageQuery
from rag.schema import ChunkRow, FileBatch, IndexGeneration, StoreFile, VectorStore
from rag.stores.access_lists import Reader
from rag.stores.visibility import DAY_S
from serving.storage.database import Database
from tests.rag.finding import MEANING, WORDS, found
from tests.rag.workshop import READER, Workshop


@pytest.fixture
async def shop(database: Database) -> Workshop:
    shop = Workshop(database)
    await shop.open("acme", "globex")
    return shop


async def lasting(shop: Workshop, days: int, reader: Reader = READER) -> str:
    """Create a store that expires after that many days without use."""
    made = await shop.stores.create(reader, name="s", metadata={}, expires_after_days=days)
    return made.id


async def last_active(shop: Workshop, store: str) -> int | None:
    async with shop.database.session() as session:
        return await session.scalar(
            select(VectorStore.last_active_at).where(VectorStore.id == store)
        )


async def rows(shop: Workshop) -> list[int]:
    """Count generations, files in stores, batches and chunks."""
    async with shop.database.session() as session:
        return [
            await session.scalar(select(func.count()).select_from(kind)) or 0
            for kind in (IndexGeneration, StoreFile, FileBatch, ChunkRow)
        ]


async def test_file_that_expired_leaves_stores_searches_and_lists(shop: Workshop) -> None:
    store = await shop.store()
    brief, kept = await shop.upload("apple", lasts_s=3600), await shop.upload("apple")
    await shop.attach(store, brief, kept)
    await shop.index()
    shop.clock.now += 3600
    while await shop.expiry.expire():
        pass
    for leg in (MEANING, WORDS):
        assert await found(shop, store, "apple", leg) == [kept]
    assert [one.id for one in (await shop.files.list(READER, PageQuery(limit=10))).rows] == [kept]
    listed = await shop.store_files.list(READER, store, PageQuery(limit=10))
    assert [one.file_id for one in listed.rows] == [kept]
    with pytest.raises(NotThere):
        await shop.files.get(READER, brief)
    await shop.recovery.settle()
    assert set(shop.texts.kept) == {("acme", kept)}
    assert len(shop.versions()) == 1
    assert await shop.consistency.check() == []


async def test_file_that_expired_is_found_no_more_before_it_is_removed(shop: Workshop) -> None:
    store, brief = await shop.store(), await shop.upload("apple", lasts_s=3600)
    await shop.attach(store, brief)
    await shop.index()
    assert await found(shop, store, "apple", WORDS) == [brief]
    shop.clock.now += 3600
    for leg in (MEANING, WORDS):
        assert await found(shop, store, "apple", leg) == []


async def test_file_does_not_expire_before_its_time(shop: Workshop) -> None:
    await shop.upload("apple", lasts_s=3600)
    await shop.upload("pear")
    shop.clock.now += 3599
    assert not await shop.expiry.expire()
    assert len((await shop.files.list(READER, PageQuery(limit=10))).rows) == 2


async def test_files_that_expire_together_all_go(shop: Workshop) -> None:
    for _ in range(5):
        await shop.upload("apple", lasts_s=3600)
    shop.clock.now += 3600
    await shop.recovery.settle()
    assert (await shop.files.list(READER, PageQuery(limit=10))).rows == []
    assert shop.texts.kept == {}


async def test_file_that_expires_while_it_is_indexed_stays_away(shop: Workshop) -> None:
    store, brief = await shop.store(), await shop.upload("apple", lasts_s=30)
    await shop.attach(store, brief)
    batch = await shop.leases.take()
    assert batch is not None
    shop.clock.now += 30
    await shop.expiry.expire()
    await shop.ingestion._index(batch)
    await shop.recovery.settle()
    assert shop.versions() == set()
    assert await shop.consistency.check() == []


async def test_store_that_expired_is_emptied_and_its_files_stay(shop: Workshop) -> None:
    store, file = await lasting(shop, 2), await shop.upload("apple")
    await shop.attach(store, file)
    await shop.index()
    shop.clock.now += 2 * DAY_S
    await shop.recovery.settle()
    assert await rows(shop) == [0, 0, 0, 0]
    assert shop.vectors.kept == {}
    assert (await shop.files.get(READER, file)).id == file
    assert await shop.consistency.check() == []


async def test_store_that_expired_stays_listed_as_expired(shop: Workshop) -> None:
    store = await lasting(shop, 2)
    shop.clock.now += 2 * DAY_S
    await shop.recovery.settle()
    listed = (await shop.stores.list(READER, PageQuery(limit=10))).rows
    assert [(one.id, one.status) for one in listed] == [(store, "expired")]
    assert (await shop.stores.get(READER, store)).status == "expired"


@pytest.mark.parametrize("emptied", [False, True])
async def test_store_that_expired_can_be_neither_changed_nor_filled_nor_searched(
    shop: Workshop, *, emptied: bool
) -> None:
    store, file = await lasting(shop, 2), await shop.upload("apple")
    shop.clock.now += 2 * DAY_S
    if emptied:
        await shop.recovery.settle()
    with pytest.raises(Refused, match="expired"):
        await shop.stores.modify(READER, store, expires_after_days=None)
    with pytest.raises(Refused, match="expired"):
        await shop.attach(store, file)
    with pytest.raises(NotThere):
        await shop.stores.generations(READER, [store])


async def test_store_that_expired_can_be_deleted(shop: Workshop) -> None:
    store = await lasting(shop, 2)
    shop.clock.now += 2 * DAY_S
    await shop.recovery.settle()
    await shop.stores.delete(READER, store)
    assert (await shop.stores.list(READER, PageQuery(limit=10))).rows == []
    assert await shop.consistency.check() == []


async def test_store_that_expired_is_emptied_once(shop: Workshop) -> None:
    await lasting(shop, 2)
    shop.clock.now += 2 * DAY_S
    assert await shop.expiry.expire()
    assert not await shop.expiry.expire()


async def test_store_that_never_expires_stays(shop: Workshop) -> None:
    store = await shop.store()
    shop.clock.now += 10_000 * DAY_S
    assert not await shop.expiry.expire()
    assert (await shop.stores.get(READER, store)).status == "completed"


async def test_use_postpones_expiry(shop: Workshop) -> None:
    used, unused = await lasting(shop, 2), await lasting(shop, 2)
    shop.clock.now += DAY_S
    await shop.expiry.used([used])
    shop.clock.now += DAY_S
    await shop.recovery.settle()
    assert (await shop.stores.get(READER, used)).status == "completed"
    assert (await shop.stores.get(READER, unused)).status == "expired"


async def test_attaching_a_file_is_use(shop: Workshop) -> None:
    store, file = await lasting(shop, 2), await shop.upload("apple")
    shop.clock.now += DAY_S
    await shop.attach(store, file)
    shop.clock.now += DAY_S
    assert (await shop.stores.get(READER, store)).status == "in_progress"


async def test_use_is_written_once_in_a_while(shop: Workshop) -> None:
    store = await shop.store()
    made = await last_active(shop, store)
    shop.clock.now += USED_S
    await shop.expiry.used([store])
    assert await last_active(shop, store) == made
    shop.clock.now += 1
    await shop.expiry.used([store])
    assert await last_active(shop, store) == shop.clock.now


async def test_use_of_a_store_that_somebody_holds_waits_for_nobody(shop: Workshop) -> None:
    if shop.database.dialect == "sqlite":
        pytest.skip("one writer at a time")
    held, free = await shop.store(), await shop.store()
    shop.clock.now += USED_S + 1
    async with shop.database.transaction() as session:
        await session.scalar(select(VectorStore.id).where(VectorStore.id == held).with_for_update())
        await shop.expiry.used([held, free])
    assert await last_active(shop, free) == shop.clock.now
    assert await last_active(shop, held) != shop.clock.now


async def test_use_of_stores_that_are_gone_is_nothing(shop: Workshop) -> None:
    await shop.expiry.used(["vs_gone"])
    await shop.expiry.used([])
