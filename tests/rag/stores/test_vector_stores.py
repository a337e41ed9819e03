"""Vector stores in SQL: creation, visibility, and what a deletion removes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import pytest
from sqlalchemy import delete

from rag.errors import Ambiguous, NotThere, Refused
from rag.index.protocols import Collection
from rag.pages import PageQuery
from rag.schema import (
    ChunkRow,
    File,
    FileBatch,
    IndexGeneration,
    IndexIntent,
    StoreFile,
)
from rag.stores.access_lists import Reader
from rag.stores.store_records import FileCounts
from tests.rag.library import ACME, ANN, LEGAL, OTHER, SALES, STRANGERS, Place

DAY_S = 86_400


async def listed(
    place: Place,
    reader: Reader = ACME,
    *,
    order: Literal["asc", "desc"] = "asc",
    limit: int = 100,
    after: str | None = None,
    before: str | None = None,
) -> tuple[list[str], bool]:
    page = await place.stores.list(reader, PageQuery(limit, order, after, before))
    return [store.id for store in page.rows], page.has_more


async def test_store_is_told_as_it_was_made(place: Place) -> None:
    await place.upload("file-1")
    made = await place.stores.create(
        ACME, name="n", description="d", metadata={"a": "b"}, expires_after_days=7,
        access=["user:ann", "tenant"], embedding_model="large", file_ids=["file-1", "file-1"],
        chunking=(200, 100),
    )  # fmt: skip
    assert made.id.startswith("vs_")
    assert (made.name, made.description, made.metadata) == ("n", "d", {"a": "b"})
    assert (made.created_at, made.last_active_at) == (1_000_000, 1_000_000)
    assert (made.expires_after_days, made.expires_at) == (7, 1_000_000 + 7 * DAY_S)
    assert list(made.access) == ["tenant", "user:ann"]
    assert (made.status, made.counts.in_progress, made.counts.total) == ("in_progress", 1, 1)
    assert await place.stores.get(ACME, made.id) == made
    row = await place.store_file(made.id, "file-1")
    assert (row.strategy, row.chunk_tokens, row.overlap_tokens) == ("static", 200, 100)


async def named(place: Place, reader: Reader, name: str = "n") -> str:
    """Return the store of a name; create it if there is none."""
    return (await place.stores.create(reader, name=name, metadata={}, reuse=True)).id


async def test_callers_that_ask_for_one_name_at_once_get_one_store(place: Place) -> None:
    names = ["a", "b", "a", "b", "a", "b"]
    made = await asyncio.gather(*(named(place, ACME, name) for name in names))
    assert len(set(made)) == 2
    assert (made[0::2], made[1::2]) == ([made[0]] * 3, [made[1]] * 3)
    assert sorted((await listed(place))[0]) == sorted(set(made))


async def test_store_that_is_reused_stays_as_it_is(place: Place) -> None:
    first = await place.stores.create(ACME, name="n", metadata={"a": "b"})
    again = await place.stores.create(
        ACME, name="n", metadata={"c": "d"}, access=["user:ann", "tenant"], reuse=True
    )
    assert again == first


async def test_name_alone_makes_another_store(place: Place) -> None:
    first = await place.stores.create(ACME, name="n", metadata={})
    assert (await place.stores.create(ACME, name="n", metadata={})).id != first.id


async def test_store_of_others_is_not_reused(place: Place) -> None:
    readers = [LEGAL, SALES, OTHER]
    made = await asyncio.gather(*(named(place, reader) for reader in (*readers, *readers)))
    assert made[:3] == made[3:]
    assert len(set(made)) == 3
    with pytest.raises(Ambiguous) as several:
        await named(place, Reader.of("acme", ["legal", "sales"]))
    assert all(store in several.value.message for store in made[:2])
    assert made[2] not in several.value.message


async def test_expired_store_is_not_reused(place: Place) -> None:
    old = await place.stores.create(ACME, name="n", metadata={}, expires_after_days=1)
    place.clock.now += DAY_S
    new = await named(place, ACME)
    assert new != old.id
    assert await named(place, ACME) == new


CALLS: dict[str, Callable[[Place, Reader, str], Awaitable[object]]] = {
    "get": lambda place, reader, name: place.stores.get(reader, name),
    "modify": lambda place, reader, name: place.stores.modify(reader, name, name="x"),
    "delete": lambda place, reader, name: place.stores.delete(reader, name),
    "generations": lambda place, reader, name: place.stores.generations(reader, [name]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("stranger", STRANGERS, ids=["group", "tenant"])
async def test_store_of_others_is_told_like_one_that_never_was(
    place: Place, stranger: Reader, call: Callable[[Place, Reader, str], Awaitable[object]]
) -> None:
    theirs = await place.store(reader=LEGAL)
    errors = []
    for name in (theirs, "vs_0"):
        with pytest.raises(NotThere) as caught:
            await call(place, stranger, name)
        errors.append((caught.value.message, caught.value.param))
    assert errors[0] == errors[1]
    assert await listed(place, stranger) == ([], False)
    assert (await place.stores.get(LEGAL, theirs)).name == "s"


async def test_counts_and_bytes_are_of_the_reader_s_files_only(place: Place) -> None:
    for name, reader in (("file-a", LEGAL), ("file-b", SALES), ("file-c", ACME), ("file-d", ACME)):
        await place.upload(name, reader)
    everyone = Reader.of("acme", ["legal", "sales"])
    store = await place.store(
        "file-a", "file-b", "file-c", "file-d", reader=everyone, access=["tenant", "group:legal"]
    )
    await place.publish(store, "file-a", "x")
    await place.publish(store, "file-c", "x")
    await place.set_status(store, "file-d", "failed")
    told = {}
    for name, reader in (("legal", LEGAL), ("sales", SALES), ("acme", ACME)):
        told[name] = await place.stores.get(reader, store)
        assert (await place.stores.list(reader, PageQuery(limit=1))).rows == [told[name]]
    assert told["legal"].counts == FileCounts(0, 2, 1, 0, 3)
    assert told["sales"].counts == FileCounts(1, 1, 1, 0, 3)
    assert told["acme"].counts == FileCounts(0, 1, 1, 0, 2)
    assert [one.status for one in told.values()] == ["completed", "in_progress", "completed"]
    assert [one.usage_bytes for one in told.values()] == [20, 10, 10]


async def test_pages_go_both_ways_through_stores_that_are_as_old(place: Place) -> None:
    made = []
    for number in range(6):
        place.clock.now += number % 2
        made.append(await place.store())
    times = [(await place.stores.get(ACME, store)).created_at for store in made]
    rising = [store for _, store in sorted(zip(times, made, strict=True))]
    assert await listed(place) == (rising, False)
    assert await listed(place, order="desc") == (rising[::-1], False)
    for order, every in (("asc", rising), ("desc", rising[::-1])):
        page = {"order": order, "limit": 2}
        assert await listed(place, **page, after=every[1]) == (every[2:4], True)  # type: ignore[arg-type]
        assert await listed(place, **page, after=every[3]) == (every[4:], False)  # type: ignore[arg-type]
        assert await listed(place, **page, before=every[4]) == (every[2:4], True)  # type: ignore[arg-type]
        assert await listed(place, **page, before=every[2]) == (every[:2], False)  # type: ignore[arg-type]
        assert await listed(place, **page, before=every[0]) == ([], False)  # type: ignore[arg-type]
        between = await listed(place, **page, after=every[1], before=every[3])  # type: ignore[arg-type]
        assert between == (every[2:3], False)


@pytest.mark.parametrize("name", ["after", "before"])
async def test_cursor_of_others_is_refused(place: Place, name: str) -> None:
    theirs = await place.store(reader=LEGAL)
    with pytest.raises(Refused) as caught:
        await listed(place, SALES, **{name: theirs})  # type: ignore[arg-type]
    assert caught.value.param == name


async def test_change_leaves_what_it_does_not_name(place: Place) -> None:
    store = await place.store(days=3)
    before = await place.stores.get(ACME, store)
    assert await place.stores.modify(ACME, store) == before
    changed = await place.stores.modify(ACME, store, name="x", metadata={"k": "v"})
    assert (changed.name, changed.metadata, changed.expires_after_days) == ("x", {"k": "v"}, 3)
    changed = await place.stores.modify(ACME, store, expires_after_days=None)
    assert (changed.name, changed.expires_after_days, changed.expires_at) == ("x", None, None)
    changed = await place.stores.modify(ANN, store, access=["group:legal", "user:ann"])
    assert list(changed.access) == ["group:legal", "user:ann"]
    assert await place.stores.get(LEGAL, store) == changed
    with pytest.raises(NotThere):
        await place.stores.get(SALES, store)


@pytest.mark.parametrize("access", [["group:sales"], ["user:bob"], [], ["all"]])
async def test_nobody_locks_themselves_out_of_a_store(place: Place, access: Sequence[str]) -> None:
    store = await place.store(reader=LEGAL)
    with pytest.raises(Refused) as caught:
        await place.stores.modify(LEGAL, store, access=access)
    assert caught.value.param == "access"
    with pytest.raises(Refused):
        await place.store(reader=LEGAL, access=access)
    assert list((await place.stores.get(LEGAL, store)).access) == ["group:legal"]


async def test_store_expires_after_days_without_use_and_is_told_so(place: Place) -> None:
    store = await place.store(days=1)
    place.clock.now += DAY_S - 1
    assert (await place.stores.get(ACME, store)).status == "completed"
    place.clock.now += 1
    assert (await place.stores.get(ACME, store)).status == "expired"
    assert await listed(place) == ([store], False)
    with pytest.raises(NotThere):
        await place.stores.generations(ACME, [store])
    with pytest.raises(Refused):
        await place.stores.modify(ACME, store, expires_after_days=None)
    await place.stores.delete(ACME, store)
    assert await listed(place) == ([], False)


async def test_deleted_store_goes_with_all_that_is_in_it_but_its_files(place: Place) -> None:
    await place.upload("file-1")
    gone, stays = await place.store("file-1"), await place.store("file-1")
    for store in (gone, stays):
        await place.publish(store, "file-1", "one", "two")
    await place.batches.create(ACME, gone, [("file-1", {}, None)])
    collection = await place.collection(gone)
    async with place.database.transaction() as session:
        for kind, name in (("write", collection), ("erase", collection), ("write", "another")):
            session.add(
                IndexIntent(kind=kind, tenant="acme", subject="v", collection=name, until=9e9)
            )
        session.add(generation_like(gone, "gen_building"))
    await place.stores.delete(ACME, gone)
    assert await place.intents() == {("drop", collection), ("drop", "gen_building"), ("write", "v")}
    assert await listed(place) == ([stays], False)
    assert await place.tables() == [2]
    left = [await place.count(table) for table in (StoreFile, FileBatch, ChunkRow, File)]
    assert left == [1, 0, 2, 1]


def generation_like(store_id: str, name: str) -> IndexGeneration:
    return IndexGeneration(
        id=name, store_id=store_id, state="building", collection=name, model="large",
        revision="r2", dimension=24, canaries=b"", created_at=1, reembedded_to=0,
    )  # fmt: skip


async def test_number_of_a_store_is_never_used_again(place: Place) -> None:
    await place.stores.delete(ACME, await place.store())
    await place.store()
    assert await place.tables() == [2]


async def test_reader_who_may_not_read_its_files_can_delete_a_store(place: Place) -> None:
    await place.upload("file-1", LEGAL)
    store = await place.store("file-1", reader=LEGAL, access=["tenant"])
    await place.publish(store, "file-1", "one")
    await place.stores.delete(SALES, store)
    assert await place.count(ChunkRow) == 0
    assert (await place.files.get(LEGAL, "file-1")).id == "file-1"


async def test_vectors_to_search_come_in_the_order_of_the_stores(place: Place) -> None:
    stores = [await place.store() for _ in range(3)]
    async with place.database.transaction() as session:
        session.add(generation_like(stores[0], "gen_building"))
    asked = [stores[2], stores[0], stores[1]]
    found = await place.stores.generations(ACME, asked)
    assert [generation.store_id for generation in found] == asked
    first = found[0]
    assert (first.tenant, first.model, first.revision, first.dimension) == (
        "acme",
        "small",
        "r1",
        16,
    )
    assert first.collection == Collection("acme", await place.collection(stores[2]))
    assert first.id == first.collection.name


async def test_one_store_that_is_not_there_leaves_nothing_to_search(place: Place) -> None:
    mine, theirs = await place.store(), await place.store(reader=OTHER)
    bare = await place.store()
    async with place.database.transaction() as session:
        await session.execute(delete(IndexGeneration).where(IndexGeneration.store_id == bare))
    for missing in (theirs, bare, "vs_0"):
        with pytest.raises(NotThere, match="No such vector store"):
            await place.stores.generations(ACME, [mine, missing])
