"""Files in vector stores: repeated attaching, visibility, and what they leave behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from rag.errors import NotThere, Refused, TooMany
from rag.pages import PageQuery
from rag.schema import ChunkRow, StoreFile
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFileRecord
from serving.storage.database import Database
from tests.rag.library import ACME, LEGAL, SALES, STRANGERS, Place

DAY_S = 86_400


async def attach(
    place: Place,
    store_id: str,
    file_id: str,
    *,
    reader: Reader = ACME,
    chunking: tuple[int, int] | None = None,
    **attributes: Any,
) -> StoreFileRecord:
    return await place.store_files.attach(
        reader, store_id, file_id, attributes=attributes, chunking=chunking
    )


async def listed(
    place: Place,
    store_id: str,
    *,
    reader: Reader = ACME,
    order: Literal["asc", "desc"] = "asc",
    limit: int = 100,
    after: str | None = None,
    before: str | None = None,
    status: str | None = None,
) -> tuple[list[str], bool]:
    query = PageQuery(limit, order, after, before)
    page = await place.store_files.list(reader, store_id, query, status=status)
    return [file.file_id for file in page.rows], page.has_more


async def test_attached_file_waits_to_be_indexed(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store()
    place.clock.now += 5
    attached = await attach(place, store, "file-1", year=2026, draft=True, name="a")
    assert attached == StoreFileRecord(
        file_id="file-1", store_id=store, created_at=1_000_005, status="in_progress",
        error_code=None, error_message=None,
        attributes={"year": 2026, "draft": True, "name": "a"},
        chunk_tokens=800, overlap_tokens=400, usage_bytes=0,
    )  # fmt: skip
    assert await place.store_files.get(ACME, store, "file-1") == attached
    row = await place.store_file(store, "file-1")
    assert (row.strategy, row.version, row.tries) == ("auto", None, 0)
    assert (row.lease_owner, row.lease_until) == (None, 0.0)
    assert (await place.stores.get(ACME, store)).last_active_at == 1_000_005


LEASED = {"lease_owner": "me", "lease_until": 9e9, "tries": 3}
FAILED = {"error_code": "invalid_file", "error_message": "Empty."}


@pytest.mark.parametrize("chunking", [None, (800, 400), (100, 50)], ids=["auto", "same", "other"])
@pytest.mark.parametrize("status", ["in_progress", "completed", "failed", "cancelled"])
async def test_file_that_is_attached_again_is_indexed_again_only_if_it_has_to_be(
    place: Place, status: str, chunking: tuple[int, int] | None
) -> None:
    await place.upload("file-1")
    store = await place.store("file-1")
    await place.set_status(store, "file-1", status, **LEASED, **FAILED)
    place.clock.now += 5
    again = await attach(place, store, "file-1", chunking=chunking, year=1)
    row = await place.store_file(store, "file-1")
    assert (again.attributes, again.created_at) == ({"year": 1}, 1_000_000)
    assert (row.chunk_tokens, row.overlap_tokens) == (chunking or (800, 400))
    assert row.strategy == ("auto" if chunking is None else "static")
    if status in ("in_progress", "completed") and chunking != (100, 50):
        assert (row.status, row.lease_owner, row.tries) == (status, "me", 3)
        assert row.error_code == "invalid_file"
    else:
        assert (row.status, row.lease_owner, row.tries) == ("in_progress", None, 0)
        assert (row.lease_until, row.error_code, row.error_message) == (0.0, None, None)
    assert await place.count(StoreFile) == 1


async def test_file_for_a_batch_of_requests_is_refused(place: Place) -> None:
    await place.upload("file-1", purpose="batch")
    store = await place.store()
    with pytest.raises(Refused) as caught:
        await attach(place, store, "file-1")
    assert caught.value.param == "file_id"
    assert await listed(place, store) == ([], False)


async def test_expired_store_takes_no_files(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store(days=1)
    place.clock.now += DAY_S
    with pytest.raises(Refused, match="expired"):
        await attach(place, store, "file-1")


async def test_full_store_takes_files_that_it_has_and_no_others(database: Database) -> None:
    place = await Place.open(database, max_files=2)
    one, two, three = await place.upload_many(3)
    store = await place.store(one, two)
    await attach(place, store, two, year=1)
    with pytest.raises(TooMany):
        await attach(place, store, three)
    await place.store_files.detach(ACME, store, one)
    await attach(place, store, three)


@pytest.mark.parametrize("file_id", ["file-theirs", "file-expired", "file-none"])
async def test_file_that_is_not_there_for_the_reader_cannot_be_attached(
    place: Place, file_id: str
) -> None:
    await place.upload("file-theirs", SALES)
    await place.upload("file-expired", expires_after_s=1)
    place.clock.now += 2
    store = await place.store(reader=LEGAL)
    with pytest.raises(NotThere) as caught:
        await attach(place, store, file_id, reader=LEGAL)
    assert (caught.value.message, caught.value.param) == ("No such file.", "file_id")


CALLS: dict[str, Callable[[Place, Reader, str, str], Awaitable[object]]] = {
    "get": lambda place, reader, store, file: place.store_files.get(reader, store, file),
    "detach": lambda place, reader, store, file: place.store_files.detach(reader, store, file),
    "content": lambda place, reader, store, file: place.store_files.content(reader, store, file),
    "set_attributes": lambda place, reader, store, file: place.store_files.set_attributes(
        reader, store, file, attributes={}
    ),
}
EACH_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@EACH_CALL
async def test_file_of_others_in_a_store_is_told_like_one_that_is_not_in_it(
    place: Place, call: Callable[[Place, Reader, str, str], Awaitable[object]]
) -> None:
    await place.upload("file-1", LEGAL)
    await place.upload("file-2")
    store = await place.store("file-1", reader=LEGAL, access=["tenant"])
    await place.publish(store, "file-1", "secret")
    errors = []
    for name in ("file-1", "file-2", "file-3"):
        with pytest.raises(NotThere) as caught:
            await call(place, SALES, store, name)
        errors.append((caught.value.message, caught.value.param))
    assert errors == errors[:1] * 3
    assert await listed(place, store, reader=SALES) == ([], False)
    assert await listed(place, store, reader=LEGAL) == (["file-1"], False)


@EACH_CALL
@pytest.mark.parametrize("stranger", STRANGERS, ids=["group", "tenant"])
async def test_store_of_others_is_told_like_one_that_never_was(
    place: Place,
    stranger: Reader,
    call: Callable[[Place, Reader, str, str], Awaitable[object]],
) -> None:
    await place.upload("file-1", LEGAL, access=["tenant", "group:legal"])
    store = await place.store("file-1", reader=LEGAL)
    errors = []
    for name in (store, "vs_0"):
        for failing in (
            call(place, stranger, name, "file-1"),
            listed(place, name, reader=stranger),
            attach(place, name, "file-1", reader=stranger),
        ):
            with pytest.raises(NotThere) as caught:
                await failing
            errors.append((caught.value.message, caught.value.param))
    assert errors == errors[:1] * 6


async def test_file_that_expires_is_in_no_store_any_more(place: Place) -> None:
    await place.upload("file-1", expires_after_s=10)
    store = await place.store("file-1")
    place.clock.now += 10
    assert await listed(place, store) == ([], False)
    with pytest.raises(NotThere):
        await place.store_files.get(ACME, store, "file-1")
    assert (await place.stores.get(ACME, store)).counts.total == 0


async def test_pages_go_both_ways_through_files_that_are_as_old(place: Place) -> None:
    await place.upload("file-hidden", LEGAL)
    names = await place.upload_many(6)
    store = await place.store("file-hidden", *names, reader=LEGAL, access=["tenant"])
    assert await listed(place, store) == (names, False)
    assert await listed(place, store, limit=5) == (names[:5], True)
    assert await listed(place, store, limit=6) == (names, False)
    page: dict[str, Any] = {"limit": 2, "order": "desc"}
    assert await listed(place, store, **page) == ([names[5], names[4]], True)
    assert await listed(place, store, **page, after=names[4]) == ([names[3], names[2]], True)
    assert await listed(place, store, **page, before=names[1]) == ([names[3], names[2]], True)
    assert await listed(place, store, **page, before=names[4]) == ([names[5]], False)
    for cursor in ("file-hidden", "file-none"):
        with pytest.raises(Refused):
            await listed(place, store, after=cursor)


async def test_list_can_be_of_one_status_and_go_on_after_a_file_that_left_it(place: Place) -> None:
    names = await place.upload_many(5)
    store = await place.store(*names)
    await place.publish(store, names[1], "x")
    await place.publish(store, names[3], "x")
    waiting = [names[0], names[2], names[4]]
    assert await listed(place, store, status="in_progress") == (waiting, False)
    assert await listed(place, store, status="completed", limit=1) == ([names[1]], True)
    after = await listed(place, store, status="in_progress", after=names[1])
    assert after == (waiting[1:], False)


async def test_attributes_are_replaced_and_nothing_else(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store()
    before = await attach(place, store, "file-1", year=1, name="a")
    changed = await place.store_files.set_attributes(
        ACME, store, "file-1", attributes={"draft": False}
    )
    assert changed.attributes == {"draft": False}
    assert await place.store_files.get(ACME, store, "file-1") == changed
    assert changed.created_at == before.created_at
    assert (await place.store_file(store, "file-1")).status == "in_progress"


async def test_detached_file_leaves_the_index_and_an_intent_and_stays_itself(place: Place) -> None:
    await place.upload("file-1")
    await place.upload("file-2")
    store = await place.store("file-1", "file-2")
    version = await place.publish(store, "file-1", "one", "two")
    await place.publish(store, "file-2", "one")
    await place.store_files.detach(ACME, store, "file-1")
    assert await place.intents() == {("erase", version)}
    assert await listed(place, store) == (["file-2"], False)
    assert await place.count(ChunkRow) == 1
    assert (await place.files.get(ACME, "file-1")).id == "file-1"
    async with place.database.session() as session:
        assert len(await place.text.search(session, 1, "one", limit=9)) == 1


async def test_unused_file_is_deleted_with_the_last_store_that_has_it(place: Place) -> None:
    await place.upload("file-1")
    first, second = await place.store("file-1"), await place.store("file-1")
    version = await place.publish(second, "file-1", "one")
    await place.store_files.detach(ACME, first, "file-1", delete_unused=True)
    assert await listed(place, second) == (["file-1"], False)
    assert await place.intents() == set()
    await place.store_files.detach(ACME, second, "file-1", delete_unused=True)
    assert await place.intents() == {("erase", version), ("blob", "file-1")}
    with pytest.raises(NotThere):
        await place.files.get(ACME, "file-1")


async def test_file_that_a_store_of_others_has_is_not_unused(place: Place) -> None:
    await place.upload("file-1")
    theirs, ours = await place.store("file-1", reader=LEGAL), await place.store("file-1")
    await place.store_files.detach(ACME, ours, "file-1", delete_unused=True)
    assert (await place.store_files.get(LEGAL, theirs, "file-1")).file_id == "file-1"


@pytest.mark.parametrize("stranger", STRANGERS, ids=["group", "tenant"])
async def test_stranger_deletes_no_unused_file(place: Place, stranger: Reader) -> None:
    await place.upload("file-1", LEGAL)
    store = await place.store("file-1", reader=LEGAL)
    with pytest.raises(NotThere):
        await place.store_files.detach(stranger, store, "file-1", delete_unused=True)
    assert (await place.files.get(LEGAL, "file-1")).id == "file-1"


async def test_content_is_the_text_of_the_chunks_in_their_order(place: Place) -> None:
    await place.upload("file-1")
    store = await place.store("file-1")
    texts = [f"text {number}" for number in range(12)]
    await place.publish(store, "file-1", *texts)
    assert list(await place.store_files.content(ACME, store, "file-1")) == texts


@pytest.mark.parametrize("status", ["in_progress", "failed", "cancelled"])
async def test_file_that_is_not_indexed_has_no_content(place: Place, status: str) -> None:
    await place.upload("file-1")
    store = await place.store("file-1")
    await place.publish(store, "file-1", "x")
    await place.set_status(store, "file-1", status)
    with pytest.raises(Refused, match=f"status is {status}"):
        await place.store_files.content(ACME, store, "file-1")
