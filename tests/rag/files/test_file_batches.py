"""File batches: attached completely or not at all, counted for each reader, and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert

from rag.errors import NotThere, Refused, TooMany
from rag.pages import PageQuery
from rag.schema import BatchFile, ChunkRow, File, FileAccess, FileBatch, StoreFile
from rag.stores.access_lists import Reader
from rag.stores.store_records import FileCounts
from serving.storage.database import Database
from tests.rag.library import ACME, LEGAL, SALES, STRANGERS, Place

LARGE = 2000
"""Files in the largest batch of the API."""


async def batch_of(
    place: Place, store_id: str, *file_ids: str, reader: Reader = ACME, **attributes: Any
) -> str:
    files = [(file_id, attributes, None) for file_id in file_ids]
    return (await place.batches.create(reader, store_id, files)).id


async def listed(
    place: Place,
    store_id: str,
    batch_id: str,
    *,
    reader: Reader = ACME,
    status: str | None = None,
    **page: Any,
) -> tuple[list[str], bool]:
    query = PageQuery(**{"limit": 100, "order": "asc", **page})
    found = await place.batches.list(reader, store_id, batch_id, query, status=status)
    return [file.file_id for file in found.rows], found.has_more


async def test_batch_attaches_each_file_as_it_is_meant(place: Place) -> None:
    names = await place.upload_many(3)
    store = await place.store(names[2])
    place.clock.now += 5
    made = await place.batches.create(
        ACME,
        store,
        [(names[0], {"year": 1}, None), (names[1], {}, (100, 50)), (names[2], {}, None)],
    )
    assert made.id.startswith("vsfb_")
    assert (made.store_id, made.created_at, made.status) == (store, 1_000_005, "in_progress")
    assert made.counts == FileCounts(in_progress=3, completed=0, failed=0, cancelled=0, total=3)
    assert await place.batches.get(ACME, store, made.id) == made
    found = (await place.batches.list(ACME, store, made.id, PageQuery(limit=9, order="asc"))).rows
    assert [(one.file_id, one.attributes, one.chunk_tokens) for one in found] == [
        (names[2], {}, 800), (names[0], {"year": 1}, 800), (names[1], {}, 100),
    ]  # fmt: skip


async def test_file_that_is_named_twice_is_attached_once_as_it_was_last_meant(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store()
    made = await place.batches.create(
        ACME, store, [("file-1", {"year": 1}, None), ("file-1", {"year": 2}, (100, 0))]
    )
    assert made.counts.total == 1
    row = await place.store_file(store, "file-1")
    assert (row.attributes, row.chunk_tokens) == ({"year": 2}, 100)


@pytest.mark.parametrize("wrong", ["file-theirs", "file-batch", "file-none"])
async def test_batch_with_one_file_that_cannot_be_attached_attaches_none(
    place: Place, wrong: str
) -> None:
    await place.upload("file-1")
    await place.upload("file-theirs", SALES)
    await place.upload("file-batch", purpose="batch")
    store = await place.store(reader=LEGAL)
    with pytest.raises((NotThere, Refused)) as caught:
        await batch_of(place, store, "file-1", wrong, reader=LEGAL)
    assert caught.value.param == "file_ids"
    assert [await place.count(table) for table in (StoreFile, FileBatch, BatchFile)] == [0, 0, 0]


async def test_batch_that_a_store_has_no_room_for_attaches_none(database: Database) -> None:
    place = await Place.open(database, max_files=2)
    names = await place.upload_many(3)
    store = await place.store(names[0])
    with pytest.raises(TooMany):
        await batch_of(place, store, *names)
    assert [await place.count(table) for table in (StoreFile, FileBatch)] == [1, 0]


async def test_expired_store_takes_no_batch(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store(days=1)
    place.clock.now += 86_400
    with pytest.raises(Refused, match="expired"):
        await batch_of(place, store, "file-1")


CALLS: dict[str, Callable[[Place, Reader, str, str], Awaitable[object]]] = {
    "get": lambda place, reader, store, batch: place.batches.get(reader, store, batch),
    "cancel": lambda place, reader, store, batch: place.batches.cancel(reader, store, batch),
    "list": lambda place, reader, store, batch: listed(place, store, batch, reader=reader),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("stranger", STRANGERS, ids=["group", "tenant"])
async def test_batch_of_a_store_of_others_is_told_like_one_that_never_was(
    place: Place, stranger: Reader, call: Callable[[Place, Reader, str, str], Awaitable[object]]
) -> None:
    await place.upload("file-1", LEGAL)
    store = await place.store(reader=LEGAL)
    batch = await batch_of(place, store, "file-1", reader=LEGAL)
    errors = []
    for name in (store, "vs_0"):
        with pytest.raises(NotThere) as caught:
            await call(place, stranger, name, batch)
        errors.append(caught.value.message)
    assert errors[0] == errors[1]
    assert (await place.batches.get(LEGAL, store, batch)).status == "in_progress"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_batch_is_found_in_its_own_store_only(
    place: Place, call: Callable[[Place, Reader, str, str], Awaitable[object]]
) -> None:
    await place.upload("file-1")
    store, other = await place.store(), await place.store()
    batch = await batch_of(place, store, "file-1")
    with pytest.raises(NotThere):
        await call(place, ACME, other, batch)


async def test_batch_shows_and_cancels_only_files_that_the_reader_may_read(place: Place) -> None:
    await place.upload("file-a", LEGAL)
    await place.upload("file-b")
    store = await place.store(reader=LEGAL, access=["tenant"])
    batch = await batch_of(place, store, "file-a", "file-b", reader=LEGAL)
    assert (await place.batches.get(SALES, store, batch)).counts.total == 1
    assert await listed(place, store, batch, reader=SALES) == (["file-b"], False)
    with pytest.raises(Refused):
        await listed(place, store, batch, reader=SALES, after="file-a")
    await place.batches.cancel(SALES, store, batch)
    counts = (await place.batches.get(LEGAL, store, batch)).counts
    assert (counts.in_progress, counts.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        (("completed", "completed"), "completed"),
        (("completed", "failed"), "completed"),
        (("failed", "failed"), "failed"),
        (("failed", "in_progress"), "in_progress"),
        (("completed", "in_progress"), "in_progress"),
    ],
)
async def test_batch_is_as_far_as_its_files_are(
    place: Place, statuses: tuple[str, str], told: str
) -> None:
    names = await place.upload_many(2)
    store = await place.store()
    batch = await batch_of(place, store, *names)
    for name, status in zip(names, statuses, strict=True):
        await place.set_status(store, name, status)
    assert (await place.batches.get(ACME, store, batch)).status == told


async def test_cancelled_batch_takes_waiting_files_from_whoever_indexes_them(place: Place) -> None:
    names = await place.upload_many(4)
    store = await place.store(names[3])
    batch = await batch_of(place, store, *names[:3])
    await place.publish(store, names[0], "x")
    await place.set_status(store, names[1], "in_progress", lease_owner="me", lease_until=9e9)
    told = await place.batches.cancel(ACME, store, batch)
    assert (told.status, told.counts) == ("cancelled", FileCounts(0, 1, 0, 2, 3))
    row = await place.store_file(store, names[1])
    assert (row.status, row.lease_owner, row.lease_until) == ("cancelled", None, 0.0)
    assert (await place.store_file(store, names[3])).status == "in_progress"
    assert await place.batches.cancel(ACME, store, batch) == told


async def test_batch_that_is_through_cannot_be_cancelled_any_more(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store()
    batch = await batch_of(place, store, "file-1")
    await place.publish(store, "file-1", "x")
    assert (await place.batches.cancel(ACME, store, batch)).status == "completed"


async def test_file_that_was_to_be_cut_anew_is_out_of_the_index_when_cancelled(
    place: Place,
) -> None:
    await place.upload("file-1")
    store = await place.store("file-1")
    version = await place.publish(store, "file-1", "x")
    made = await place.batches.create(ACME, store, [("file-1", {}, (100, 0))])
    await place.batches.cancel(ACME, store, made.id)
    assert await place.intents() == {("erase", version)}
    assert await place.count(ChunkRow) == 0


async def test_batch_forgets_files_that_leave_the_store(place: Place) -> None:
    names = await place.upload_many(3)
    store = await place.store()
    batch = await batch_of(place, store, *names)
    await place.store_files.detach(ACME, store, names[0])
    await place.files.delete(ACME, names[1])
    assert await listed(place, store, batch) == ([names[2]], False)


async def test_pages_of_a_batch_have_only_its_files(place: Place) -> None:
    names = await place.upload_many(5)
    store = await place.store(names[4])
    batch = await batch_of(place, store, *names[:4])
    assert await listed(place, store, batch, limit=3) == (names[:3], True)
    assert await listed(place, store, batch, limit=3, after=names[0]) == (names[1:4], False)
    assert await listed(place, store, batch, limit=2, before=names[3]) == (names[1:3], True)
    await place.set_status(store, names[2], "failed")
    assert await listed(place, store, batch, status="failed") == ([names[2]], False)
    with pytest.raises(Refused):
        await listed(place, store, batch, after=names[4])


async def many_files(place: Place, count: int) -> list[str]:
    names = [f"file-{number:04}" for number in range(count)]
    facts = {
        "tenant": "acme", "filename": "f", "purpose": "user_data", "media_type": "text/plain",
        "bytes": 1, "sha256": "ab", "privacy": "local_only", "created_at": 1,
    }  # fmt: skip
    async with place.database.transaction() as session:
        await session.execute(insert(File), [{"id": name, **facts} for name in names])
        access = [{"file_id": name, "entry": "tenant"} for name in names]
        await session.execute(insert(FileAccess), access)
    return names


async def test_largest_batch_is_attached_again_and_cancelled(place: Place) -> None:
    names = await many_files(place, LARGE)
    store = await place.store()
    batch = await batch_of(place, store, *names)
    assert (await place.batches.get(ACME, store, batch)).counts.in_progress == LARGE
    again = await place.batches.create(ACME, store, [(name, {"n": 1}, (100, 0)) for name in names])
    assert again.counts.in_progress == LARGE
    assert await place.count(StoreFile) == LARGE
    assert (await place.store_file(store, names[-1])).attributes == {"n": 1}
    told = await place.batches.cancel(ACME, store, batch)
    assert told.counts == FileCounts(0, 0, 0, LARGE, LARGE)


async def test_files_are_attached_and_deleted_at_once_without_waiting_in_a_ring(
    place: Place,
) -> None:
    names = await place.upload_many(16)
    stores = sorted([await place.store() for _ in range(3)])
    doomed, left = names[:8], names[8:]
    for some, order in ((doomed[::2], stores), (doomed[1::2], stores[::-1])):
        for store in order:
            await batch_of(place, store, *some)

    async def attach(store: str, files: list[str]) -> None:
        for _ in range(4):
            with suppress(NotThere):
                await batch_of(place, store, *files)

    async with asyncio.TaskGroup() as group:
        for name in doomed:
            group.create_task(place.files.delete(ACME, name))
            for store in stores:
                group.create_task(attach(store, [name, *left]))
        group.create_task(place.stores.delete(ACME, stores[0]))
    for store in stores[1:]:  # All deletions may have been first.
        await batch_of(place, store, *left)
    assert await place.count(File) == len(left)
    assert await place.count(StoreFile) == 2 * len(left)
